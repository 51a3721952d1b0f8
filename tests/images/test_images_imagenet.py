"""ImageNet from class folders and from TFRecords: order, labels, splits, batches, and what is wrong with files."""

import dataclasses
import functools
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from ghn_jax.images import (
    Augmentation,
    ImageError,
    PhotoAugmentation,
    Split,
    eval_batches,
    imagenet,
    in_memory,
    load,
    normalise,
    train_batch,
)
from ghn_jax.images.formats import tfds
from ghn_jax.images.formats.tfrecord import image_records, read_index
from ghn_jax.images.photo_views import centre_view
from ghn_jax.networks.architecture import IMAGENET, Task

CLASSES = ("n01440764", "n01443537", "n02099601")
TRAIN_COUNTS, VAL_COUNTS = (12, 2, 31), (2, 3, 4)


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch, tmp_path):
    """What the machine itself may hold does not take part."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))


@functools.cache
def picture(label, number, part):
    """A small JPEG of its own noise; its blue is that of its class."""
    rng = np.random.default_rng([label, number, len(part)])
    pixels = rng.integers(0, 256, (4, 5, 3), np.uint8)
    pixels[..., 2] = 100 * label
    file = io.BytesIO()
    Image.fromarray(pixels).resize((40 + number, 36)).save(file, "jpeg", quality=95)
    return file.getvalue()


def named_pictures(part):
    """(label, file name, content) of all images of a part; names sort differently as texts and as numbers."""
    for label, count in enumerate(TRAIN_COUNTS if part == "train" else VAL_COUNTS):
        for number in range(count):
            stem = f"{CLASSES[label]}_{number}" if part == "train" else f"ILSVRC2012_val_{7 * number % 5:08}"
            yield label, f"{stem}.JPEG", picture(label, number, part)


@pytest.fixture
def tree(tmp_path):
    for part in ("train", "val"):
        for label, name, content in named_pictures(part):
            folder = tmp_path / part / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return tmp_path


def small(data_dir):
    return imagenet.load(data_dir, num_classes=len(CLASSES))


def contents(split):
    return [split.images.source.read(int(number)) for number in split.images.numbers]


def expected_order(part):
    return [(label, content) for label, _, content in sorted(named_pictures(part))]


def test_order_labels_and_splits_of_a_tree(tree):
    data = small(tree)
    assert data.task == Task(num_classes=3, image_size=224, large_images=True)
    train, val, test = (list(zip(split.labels.tolist(), contents(split), strict=True)) for split in
                        (data.train, data.val, data.test))  # fmt: skip
    in_order = expected_order("train")
    # The last 10% of every class by name, at least one: 1 of 12, 1 of 2, 3 of 31.
    held_out = in_order[11:12] + in_order[13:14] + in_order[42:45]
    assert train == [one for one in in_order if one not in held_out]
    assert sorted(val) == sorted(held_out)
    assert sorted(test) == sorted(expected_order("val")) and test != expected_order("val")
    assert data.train.labels.dtype == np.int32


def test_fifty_of_a_large_class_validate():
    labels = np.repeat([0, 1], [732, 1300])
    train, val = imagenet.hold_out(Split(np.arange(2032), labels))
    assert val.images.tolist() == [*range(682, 732), *range(1982, 2032)]
    assert val.labels.tolist() == [0] * 50 + [1] * 50
    assert sorted([*train.images, *val.images]) == list(range(2032))
    with pytest.raises(ImageError, match="class 1 has a single training image: expected at least 2"):
        imagenet.hold_out(Split(np.arange(3), np.array([0, 0, 1])))


def test_evaluated_images_are_mixed_in_one_fixed_order():
    split = Split(np.arange(2000), np.repeat(np.arange(40), 50))
    mixed = imagenet.mix(split)
    assert sorted(mixed.images) == list(range(2000))
    assert np.array_equal(mixed.labels, mixed.images // 50)
    assert np.array_equal(imagenet.mix(split).images, mixed.images)
    assert min(len(set(mixed.labels[first : first + 64])) for first in range(0, 1900, 64)) > 20


def test_training_batches_are_a_function_of_seed_and_step(tree):
    data = small(tree)
    in_order = [train_batch(data, 8, seed=5, step=step) for step in range(7)]
    assert in_order[0].images.shape == (8, 224, 224, 3) and in_order[0].images.dtype == np.float32
    for step in (6, 2, 0, 2):
        again = train_batch(small(tree), 8, seed=5, step=step)
        assert np.array_equal(again.images, in_order[step].images)
        assert np.array_equal(again.labels, in_order[step].labels)
    assert not np.array_equal(train_batch(data, 8, seed=6, step=0).images, in_order[0].images)
    epoch = np.concatenate([batch.labels for batch in in_order[:5]])
    assert np.all(np.bincount(epoch) <= [11, 1, 28]) and len(epoch) == 40


def test_images_go_with_their_labels(tree):
    """The blue of an image, which is that of its class, survives crops and mirroring."""
    plain = PhotoAugmentation(brightness=0, contrast=0, saturation=0, hue=0)
    batch = train_batch(dataclasses.replace(small(tree), augmentation=plain), 40, seed=0, step=0)
    blue = (batch.images[..., 2] * 0.225 + 0.406) * 255
    assert np.abs(blue - 100 * batch.labels[:, None, None]).max() < 60
    assert np.array_equal(np.rint(blue.mean((1, 2)) / 100), batch.labels)


def test_evaluation_sees_centres(tree):
    data = small(tree)
    batches = list(eval_batches(data.test, data, 4))
    assert [count for _, count in batches] == [4, 4, 1]
    images = np.concatenate([batch.images[:count] for batch, count in batches])
    for image, content in zip(images, contents(data.test), strict=True):
        view = np.asarray(centre_view(224, Image.open(io.BytesIO(content))))
        assert np.array_equal(image, normalise(view[None], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))[0])
    some = in_memory(data.test, data, 5)
    assert np.array_equal(normalise(some.images, data.mean, data.std), images[:5])
    assert np.array_equal(some.labels, data.test.labels[:5])
    assert np.array_equal(in_memory(data.test, data).labels, data.test.labels)
    arrays = Split(np.zeros((3, 224, 224, 3), np.uint8), np.arange(3, dtype=np.int32))
    assert in_memory(arrays, data, 2).labels.tolist() == [0, 1]


def test_too_many_images_for_the_memory(tree, monkeypatch):
    data = small(tree)

    def no_room(shape, dtype):
        raise MemoryError(f"Unable to allocate {shape}")

    monkeypatch.setattr("ghn_jax.images.batches.np.empty", no_room)
    with pytest.raises(ImageError, match="9 images do not fit into memory, take fewer: Unable to allocate"):
        in_memory(data.test, data)


def test_a_damaged_image_is_named(tree):
    data = small(tree)
    path = tree / "train" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ImageError, match=rf"{CLASSES[1]}_0.JPEG \(\d+ bytes\) is not an image, or is damaged"):
        train_batch(data, 40, seed=0, step=0)
    path.unlink()
    with pytest.raises(ImageError, match=rf"{CLASSES[1]}_0.JPEG cannot be read"):
        train_batch(data, 40, seed=0, step=0)
    (tree / "val" / CLASSES[2] / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(ImageError, match=r"val/n02099601/ILSVRC2012_val_00000001.JPEG \(0 bytes\) is not an image"):
        in_memory(data.test, data)


def test_other_files_are_left_alone(tree):
    (tree / "train" / CLASSES[0] / "Thumbs.db").write_bytes(b"x")
    (tree / "train" / "classes.txt").write_text("x")
    (tree / "val" / ".cache").mkdir()
    (tree / "val" / CLASSES[0] / "more.PNG").write_bytes(b"x")
    data = small(tree)
    assert len(data.train.labels) == 40 and len(data.test.labels) == 10


def test_not_found(tmp_path):
    with pytest.raises(ImageError) as error:
        load("imagenet", tmp_path)
    for place in ("", "imagenet\n", "imagenet2012", "nothing/imagenet2012"):
        assert str(tmp_path / place) in str(error.value)
    for word in ("train/n01440764", "val/n15075141", "ILSVRC2012_img_val.tar", "tfds build imagenet2012"):
        assert word in str(error.value)
    with pytest.raises(ImageError, match="<data_dir>/imagenet"):
        load("imagenet")


def test_where_the_tree_may_be(tree):
    (tree / "data").mkdir()
    (tree / "data" / "imagenet").symlink_to(tree)
    assert len(small(tree / "data").test.labels) == 9


def test_incomplete_trees(tree):
    with pytest.raises(ImageError, match="train has 3 class folders: expected 1000"):
        load("imagenet", tree)
    folder = tree / "val" / CLASSES[1]
    folder.rename(tree / "val" / "n09999999")
    with pytest.raises(ImageError, match="val has 3 .* expected 3: missing n01443537, unexpected n09999999"):
        small(tree)
    (tree / "val" / "n09999999").rename(folder)
    for path in folder.iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(ImageError, match=r"val/n01443537 has no images: expected files ending in .jpeg"):
        small(tree)
    (tree / "val").rename(tree / "test")
    with pytest.raises(ImageError, match=r"has no folder val/: expected train/ and val/"):
        small(tree)
    (tree / "val").mkdir()
    (tree / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"x")
    with pytest.raises(ImageError, match="val has no folders: expected one for each class"):
        small(tree)


def test_a_tree_of_any_classes(tree):
    data = load("image_folder", tree)
    assert data.num_classes == 3 and len(data.train.labels) == 40
    for folder in (None, tree / "train"):
        with pytest.raises(ImageError, match=r"expected a folder with train/ and val/"):
            load("image_folder", folder)


def test_imagenet_is_the_task_of_1000_classes(tree):
    assert dataclasses.replace(small(tree), num_classes=1000).task == IMAGENET
    assert load("digits").task == Task(10, 32, large_images=False)


def test_data_sets_of_ones_own_are_checked(tree):
    data = small(tree)
    with pytest.raises(ImageError, match="'imagenet', train: label 2 of image 12: expected 0..1"):
        dataclasses.replace(data, num_classes=2)
    with pytest.raises(ImageError, match="'imagenet', val: labels of shape .5,. with 3 images"):
        dataclasses.replace(data, val=Split(data.val.images[:3], data.val.labels))
    with pytest.raises(ImageError, match="expected PhotoAugmentation for photographs on disk"):
        dataclasses.replace(data, augmentation=Augmentation(4, True))


# TFRecords


def varint(value):
    return bytes([value]) if value < 128 else bytes([value % 128 | 128]) + varint(value // 128)


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(name, value, packed=True):
    if isinstance(value, bytes):
        content = field(1, field(1, value))
    else:
        content = field(3, field(1, varint(value)) if packed else field(1, value))
    return field(1, field(1, name.encode()) + field(2, content))


def example(label, name, content, order=("file_name", "image", "label"), packed=True):
    values = {"file_name": name.encode(), "image": content, "label": label}
    return field(1, b"".join(feature(key, values[key], packed) for key in order))


def tfrecords(records):
    return b"".join(struct.pack("<Q", len(record)) + b"sum1" + record + b"sum2" for record in records)


def test_hand_made_examples_are_those_of_tensorflow():
    pb2 = pytest.importorskip("tensorflow_datasets.proto").tf_example_pb2
    message = pb2.Example.FromString(example(300, "a.JPEG", b"\xff" * 200))
    features = message.features.feature
    assert features["label"].int64_list.value == [300] and features["image"].bytes_list.value == [b"\xff" * 200]
    assert features["file_name"].bytes_list.value == [b"a.JPEG"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("order", [("image", "label", "file_name"), ("label", "file_name", "image")])
def test_entries(tmp_path, order, packed):
    path = tmp_path / "records"
    examples = [(7, "b.JPEG", b"\xff\xd8" * 5000), (999, "a.JPEG", b""), (0, "c" * 300, b"picture")]
    foreign = field(9, 5) + varint(4 << 3 | 1) + b"8 bytes." + field(3, b"text") + varint(6 << 3 | 5) + b"four"
    path.write_bytes(tfrecords([example(*e, order, packed) + foreign for e in examples]))
    content = path.read_bytes()
    found = list(image_records(path))
    assert [(e.label, e.name.decode(), content[e.start : e.start + e.length]) for e in found] == examples


def test_broken_records(tmp_path):
    path = tmp_path / "records"
    whole = tfrecords([example(1, "a.JPEG", b"x" * 20), example(2, "b.JPEG", b"y" * 20)])
    for length in range(1, len(whole)):
        if length == len(whole) // 2:
            continue
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=rf"records has {length} bytes: expected at least .* within a record"):
            list(image_records(path))
    rng = np.random.default_rng(0)
    for broken in [b"", field(1, b""), example(1, "a", b"x", ("image", "label")), field(1, field(1, 3)),
                   example(2**40, "a", b"x"), *(rng.bytes(40) for _ in range(300))]:  # fmt: skip
        path.write_bytes(tfrecords([example(0, "a", b"x"), broken]))
        with pytest.raises(ImageError, match=r"records, record at byte \d+: (not a|it |its )"):
            list(image_records(path))
    with pytest.raises(ImageError, match="no images in no files"):
        read_index([])


def test_a_record_of_nothing_but_fields(tmp_path):
    path = tmp_path / "records"
    path.write_bytes(tfrecords([field(2, 1) * 9_000 + example(1, "a.JPEG", b"x")]))
    assert [found.label for found in image_records(path)] == [1]
    path.write_bytes(tfrecords([field(2, 1) * 11_000 + example(1, "a.JPEG", b"x")]))
    with pytest.raises(ImageError, match="record at byte 0: it has more than 10,000 fields"):
        list(image_records(path))


@pytest.fixture
def prepared(tmp_path):
    """What TFDS writes for imagenet2012, in two files for each part and in an order of its own."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "imagenet2012"
        VERSION = tfds.core.Version("5.1.0")
        pkg_dir_path = tmp_path

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=CLASSES),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples("train"), "validation": self._generate_examples("val")}

        def _generate_examples(self, part):
            for label, name, content in named_pictures(part):
                yield name + str(label), {"image": io.BytesIO(content), "label": label, "file_name": name}

    builder = Imagenet2012(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    reader = pytest.importorskip("array_record.python.array_record_module")
    folder = tmp_path / "imagenet2012" / "5.1.0"
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    for part in info["splits"]:
        (path,) = builder.info.splits[part["name"]].filepaths
        records = reader.ArrayRecordReader(str(path)).read_all()
        path.unlink()
        for number, half in enumerate((records[:4], records[4:])):
            shard = folder / f"imagenet2012-{part['name']}.tfrecord-{number:05}-of-00002"
            shard.write_bytes(tfrecords(half))
        part["shardLengths"] = ["4", str(len(records) - 4)]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def test_prepared_by_tfds_is_the_same_data_set(tree, prepared):
    assert (
        sorted(path.suffix for path in prepared.glob("*00002"))
        == [".tfrecord-00000-of-00002"] * 2 + [".tfrecord-00001-of-00002"] * 2
    )
    from_tree = small(tree)
    for part in ("train", "val"):
        (tree / part).rename(tree / f"no_{part}")
    data = small(tree)
    (tree / "no_val").rename(tree / "val")
    (tree / "no_train").rename(tree / "train")
    for part in ("train", "val", "test"):
        ours, theirs = getattr(data, part), getattr(from_tree, part)
        assert np.array_equal(ours.labels, theirs.labels) and contents(ours) == contents(theirs)
    for one, other in zip(train_batch(data, 8, 0, 3), train_batch(from_tree, 8, 0, 3), strict=True):
        assert np.array_equal(one, other)


def test_a_damaged_record_is_named(prepared, tmp_path):
    data = small(tmp_path)
    path = prepared / "imagenet2012-train.tfrecord-00001-of-00002"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\xff\xd8\xff", b"\xff\xff\xff"))
    with pytest.raises(ImageError, match=r"of-00002, image n0\d*_\d+.JPEG at byte \d+, \(\d+ bytes\) is not an image"):
        train_batch(data, 40, seed=0, step=0)


def test_incomplete_prepared_data(prepared, tmp_path):
    path = prepared / "imagenet2012-train.tfrecord-00001-of-00002"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ImageError, match="of-00002 has .* within a record"):
        small(tmp_path)
    (length,) = struct.unpack("<Q", content[:8])
    path.write_bytes(content[length + 16 :])
    with pytest.raises(ImageError, match="5.1.0 has 44 images in split 'train': expected 45"):
        small(tmp_path)
    path.unlink()
    with pytest.raises(ImageError, match=f"lacks 1 of 2 files of split 'train': {path.name}"):
        tfds.read_lazily(prepared, "train")
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    with pytest.raises(ImageError, match="in format 'array_record': expected 'tfrecord'.*tfds convert_format"):
        small(tmp_path)
