"""How fast photographs are read, decoded, augmented and normalised, beside what each part of it costs.

    python benchmarks/images.py
    python benchmarks/images.py --dataset=imagenet --data_dir=DIR

Without `--data_dir` the photographs are JPEGs of ImageNet's usual size (500x375) cut out of scikit-learn's two.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ghn_jax import images
from ghn_jax.images import photo_views
from ghn_jax.images.photos import decode_rgb

NUM = 256


def make_tree(root: Path) -> None:
    """Two classes of photographs, slightly moved."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for label, photo in enumerate(map(Image.fromarray, load_sample_images().images)):
        for part, count in (("train", NUM), ("val", NUM // 4)):
            folder = root / part / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                left, top = rng.integers(0, (photo.width - 500, photo.height - 375), endpoint=True)
                photo.crop((left, top, left + 500, top + 375)).save(folder / f"{number}.jpeg", quality=95)


def processor_ms(repeat: int, run) -> float:
    """Milliseconds of processor time for each of `repeat` calls."""
    began = time.process_time()
    for number in range(repeat):
        run(number)
    return 1000 * (time.process_time() - began) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="image_folder", choices=("imagenet", "image_folder"))
    parser.add_argument("--data_dir", help="where its files are")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.data_dir is None and args.dataset == "image_folder":
            make_tree(Path(folder))
            args.data_dir = folder
        try:
            began = time.monotonic()
            dataset = images.load(args.dataset, args.data_dir)
            print(f"{len(dataset.train.labels):,} training images, found in {time.monotonic() - began:.1f} s")
            measure(dataset)
        except images.ImageError as error:
            sys.exit(str(error))


def measure(dataset: images.Dataset) -> None:
    """Prints the costs."""
    chosen = dataset.train.images[np.random.default_rng(0).permutation(len(dataset.train.labels))[:NUM]]
    source, numbers = chosen.source, chosen.numbers.tolist()
    size = np.mean([len(source.read(number)) for number in numbers])
    print(f"{size / 1000:.0f} kB an image on average; milliseconds of processor time for each:")
    rng = np.random.default_rng(0)
    decoded, views = {}, {}
    plain = photo_views.PhotoAugmentation(brightness=0, contrast=0, saturation=0, hue=0)

    def cut(number):
        views[number] = photo_views.random_view(plain, dataset.image_size, rng, decoded[number])

    def normalise(number):
        images.normalise(np.asarray(views[number])[None], dataset.mean, dataset.std)

    for name, run in (
        ("read, decode", lambda number: decoded.update({number: decode_rgb(source, numbers[number])})),
        ("crop, scale, mirror", cut),
        ("change colours", lambda number: photo_views.change_colours(views[number], dataset.augmentation, rng)),
        ("normalise", normalise),
    ):
        print(f"  {name:22}{processor_ms(len(numbers), run):6.2f}")

    batch = min(NUM, len(numbers))
    images.train_batch(dataset, batch, seed=0, step=0)
    began, used = time.monotonic(), time.process_time()
    for step in range(1, 4):
        images.train_batch(dataset, batch, seed=0, step=step)
    seconds, used = time.monotonic() - began, time.process_time() - used
    print(
        f"batches of {batch}: {3 * batch / seconds:.0f} images a second, {1000 * used / (3 * batch):.2f} ms of "
        f"processor time each, {used / seconds:.1f} processors busy"
    )


if __name__ == "__main__":
    main()
