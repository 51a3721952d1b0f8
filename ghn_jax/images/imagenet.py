"""ImageNet (ILSVRC 2012): 1,281,167 and 50,000 photographs of 1,000 classes, left on disk.

Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015, https://image-net.org/download.php
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghn_jax.images.dataset import Dataset
from ghn_jax.images.errors import ImageError
from ghn_jax.images.formats import image_folder, tfds
from ghn_jax.images.photo_views import PhotoAugmentation
from ghn_jax.images.split import Split

NUM_CLASSES = 1000
PHOTO_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VAL_PER_CLASS = 50
"""Training images of every class that validate, its last ones (the paper's code)."""

_SHUFFLE_SEED = 0


def load(data_dir: Path | None = None, num_classes: int = NUM_CLASSES) -> Dataset:
    """1,231,167 training, 50,000 validation (held out from training) and 50,000 test images (its validation set).

    Looks for a tree of class folders in `data_dir` and `data_dir/imagenet`, then for what TFDS prepared as
    imagenet2012.  Both give the same images in the same order; of a few that are PNG or CMYK, TFDS has made RGB JPEG.
    Classes are numbered in the order of their synsets (n01440764 ...).

    Args:
      data_dir: where to look.
      num_classes: number of classes that must be there.

    Raises:
      ImageError: no files, only some of them, or a damaged one.
    """
    tree = _find_tree(data_dir)
    if tree is not None:
        return _dataset("imagenet", *_read_tree(tree, num_classes), num_classes)
    prepared = tfds.find("imagenet2012", data_dir)
    if prepared is not None:
        train, validation = (tfds.read_lazily(prepared, part) for part in ("train", "validation"))
        return _dataset("imagenet", train, validation, num_classes)
    raise ImageError(_how_to_get(data_dir))


def load_any_tree(data_dir: Path | None = None) -> Dataset:
    """Photographs of any classes in a tree like ImageNet's, `train/CLASS/*` and `val/CLASS/*`, treated like ImageNet.

    Raises:
      ImageError: no such tree.
    """
    tree = None if data_dir is None else _find_tree(data_dir)
    if tree is None:
        raise ImageError(
            f"data_dir={None if data_dir is None else str(data_dir)!r}: expected a folder with train/ and val/, and in "
            f"each of them a folder of images for every class"
        )
    train, test = _read_tree(tree, None)
    return _dataset("image_folder", train, test, int(train.labels[-1]) + 1)


def _tree_folders(data_dir: Path) -> list[Path]:
    return [data_dir, data_dir / "imagenet"]  # the second is where the paper's code has it


def _find_tree(data_dir: Path | None) -> Path | None:
    for folder in [] if data_dir is None else _tree_folders(data_dir):
        absent = [part for part in ("train", "val") if not (folder / part).is_dir()]
        if not absent:
            return folder
        if len(absent) == 1:
            raise ImageError(f"{folder} has no folder {absent[0]}/: expected train/ and val/")
    return None


def _read_tree(folder: Path, num_classes: int | None) -> tuple[Split, Split]:
    classes = image_folder.classes_of(folder / "train")
    if num_classes is not None and len(classes) != num_classes:
        raise ImageError(
            f"{folder / 'train'} has {len(classes)} class folders: expected {num_classes} "
            "(a tree of other classes is data set 'image_folder')"
        )
    # The small one first: it tells soonest of what is wrong.
    test = image_folder.read_tree(folder / "val", classes)
    return image_folder.read_tree(folder / "train", classes), test


def _dataset(name: str, training: Split, test: Split, num_classes: int) -> Dataset:
    train, val = hold_out(training)
    return Dataset(
        name=name,
        num_classes=num_classes,
        train=train,
        val=mix(val),
        test=mix(test),
        mean=MEAN,
        std=STD,
        augmentation=PhotoAugmentation(),
        image_size=PHOTO_SIZE,
    )


def hold_out(training: Split) -> tuple[Split, Split]:
    """All but the last images of every class, and these: 50 of a class, 10% of one with fewer than 500, at least one.

    Raises:
      ImageError: a class with a single image.
    """
    images, labels = training
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    lonely = np.flatnonzero(counts == 1)
    if lonely.size:
        raise ImageError(f"class {lonely[0]} has a single training image: expected at least 2, of which one validates")
    num_val = np.clip(counts // 10, 1, VAL_PER_CLASS)
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(labels))  # 1 for the last of a class
    held_out = from_end <= np.repeat(num_val, counts)
    train, val = order[~held_out], order[held_out]
    return Split(images[train], labels[train]), Split(images[val], labels[val])


def mix(split: Split) -> Split:
    """The images in one fixed random order.

    Batch norm takes its statistics from the batch: in the order of the classes, a batch would be of one or two of them.
    """
    order = np.random.RandomState(_SHUFFLE_SEED).permutation(len(split.labels))
    return Split(split.images[order], split.labels[order])


def _how_to_get(data_dir: Path | None) -> str:
    return "\n".join(
        [
            "ImageNet was not found. Looked for a folder of JPEG files for each of its 1,000 classes,",
            "train/n01440764 to train/n15075141 and val/n01440764 to val/n15075141, in",
            *(f"  {folder}" for folder in _tree_folders(data_dir or Path("<data_dir>"))),
            "and for what TFDS prepared in",
            *(f"  {folder / 'imagenet2012'}" for folder in tfds.folders(data_dir)),
            "Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (144 GB) from "
            "https://image-net.org/download.php, for which one signs up.",
            "Unpack the first, and every archive in it into a folder of its name, as train/; sort the images of the "
            "second into folders of the same names, as val/.",
            "Or put both into ~/tensorflow_datasets/downloads/manual and run `tfds build imagenet2012`.",
        ]
    )
