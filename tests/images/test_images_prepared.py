"""Data sets prepared by TensorFlow Datasets, made here by TFDS itself without TensorFlow."""

import io
import json
import os
import struct

import numpy as np
import pytest

from ghn_jax.images import ImageError, fashion_mnist, load
from ghn_jax.images.formats import tfds


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch, tmp_path):
    """What the machine itself may hold does not take part."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")


def prepare(root, data_name, counts, image_shape, with_id):
    """Lets TFDS itself prepare a small data set; images are PNG already, as TensorFlow is not here to make them."""
    tfds = pytest.importorskip("tensorflow_datasets")
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(2)
    arrays = {
        part: (rng.integers(0, 256, (count, *image_shape), np.uint8), rng.integers(0, 10, count))
        for part, count in counts.items()
    }

    def examples(part):
        for number, (image, label) in enumerate(zip(*arrays[part], strict=True)):
            file = io.BytesIO()
            image_module.fromarray(image.squeeze()).save(file, "png")
            file.seek(0)
            example = {"image": file, "label": int(label)}
            yield number, example | ({"id": f"{part}_{number:05}"} if with_id else {})

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = data_name
        VERSION = tfds.core.Version("3.0.2")
        pkg_dir_path = root

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=image_shape),
                "label": tfds.features.ClassLabel(num_classes=10),
            } | ({"id": tfds.features.Text()} if with_id else {})
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {part: examples(part) for part in counts}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Prepared(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return arrays, builder


def test_prepared_cifar_keeps_the_original_order(tmp_path):
    arrays, _ = prepare(tmp_path, "cifar10", {"train": 30, "test": 5}, (32, 32, 3), with_id=True)
    data = load("cifar10", tmp_path)
    assert np.array_equal(np.concatenate([data.train.images, data.val.images]), arrays["train"][0])
    assert np.array_equal(data.val.labels, arrays["train"][1][27:])
    assert np.array_equal(data.test.images, arrays["test"][0])


def test_prepared_fashion_mnist(tmp_path):
    arrays, _ = prepare(tmp_path, "fashion_mnist", {"train": 30, "test": 5}, (28, 28, 1), with_id=False)
    data = load("fashion_mnist", tmp_path)
    found = sorted(image[2:30, 2:30, 1].tobytes() for image in (*data.train.images, *data.val.images))
    assert found == sorted(image.tobytes() for image in arrays["train"][0])
    by_image = {image.tobytes(): label for image, label in zip(*arrays["test"], strict=True)}
    assert [by_image[image[2:30, 2:30, 0].tobytes()] for image in data.test.images] == data.test.labels.tolist()


def tfrecord_bytes(records):
    return b"".join(struct.pack("<Q", len(record)) + b"sum1" + record + b"sum2" for record in records)


def test_prepared_as_tfrecord(tmp_path):
    arrays, builder = prepare(tmp_path, "cifar10", {"train": 30, "test": 5}, (32, 32, 3), with_id=True)
    reader = pytest.importorskip("array_record.python.array_record_module")
    for part in ("train", "test"):
        (path,) = builder.info.splits[part].filepaths
        records = reader.ArrayRecordReader(str(path)).read_all()
        path.with_name(path.name.replace("array_record", "tfrecord")).write_bytes(tfrecord_bytes(records))
        path.unlink()
    info = tmp_path / "cifar10" / "3.0.2" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    data = load("cifar10", tmp_path)
    assert np.array_equal(np.concatenate([data.train.images, data.val.images]), arrays["train"][0])
    assert np.array_equal(data.test.labels, arrays["test"][1])

    info.write_text(info.read_text().replace("tfrecord", "riegeli"))
    with pytest.raises(ImageError, match="in format 'riegeli': expected 'tfrecord' or 'array_record'"):
        load("cifar10", tmp_path)


def test_tfrecords(tmp_path):
    path = tmp_path / "records"
    content = tfrecord_bytes([b"one", b"", b"three"])
    path.write_bytes(content)
    assert list(tfds.read_tfrecords(path)) == [b"one", b"", b"three"]
    for length in (len(content) - 1, len(content) - 15):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match=f"records has {length} bytes: expected at least .* within a record"):
            list(tfds.read_tfrecords(path))


def test_a_missing_split_is_named(tmp_path):
    prepare(tmp_path, "cifar10", {"train": 10}, (32, 32, 3), with_id=True)
    with pytest.raises(ImageError, match="has no split 'test': it has train"):
        load("cifar10", tmp_path)


def test_the_newest_prepared_version_is_found(tmp_path, monkeypatch):
    for version in ("3.0.2", "3.0.10", "incomplete.AB_4.0.0"):
        (tmp_path / "cifar10" / version).mkdir(parents=True)
        (tmp_path / "cifar10" / version / "dataset_info.json").write_text(json.dumps({}))
    assert tfds.find("cifar10", tmp_path) == tmp_path / "cifar10" / "3.0.10"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert tfds.find("cifar10", None) == tmp_path / "cifar10" / "3.0.10"
    assert tfds.find("cifar100", None) is None


def test_folders_that_are_no_versions(tmp_path, monkeypatch):
    for name in ("1..2", "1.2.", "3.0.²", "٣.0.2", f"3.0.{'9' * 200}", "3.0.2.1"):
        (tmp_path / "cifar10" / name).mkdir(parents=True)
        (tmp_path / "cifar10" / name / "dataset_info.json").touch()
    assert tfds.find("cifar10", tmp_path) is None


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_descriptions_buy_neither_time_nor_memory(kind, tmp_path):
    """What TFDS reads itself, it reads without asking what it is."""
    pytest.importorskip("tensorflow_datasets")
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    path = folder / "dataset_info.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    with pytest.raises(ImageError, match="dataset_info.json (is a named pipe|is a device|has 1,099,511,627,776 bytes)"):
        load("cifar10", tmp_path)


def test_damaged_examples_are_one_error(tmp_path, monkeypatch):
    class Builder:
        class info:
            features: dict = {}
            splits = {"train": type("Part", (), {"num_examples": 2})}
            file_format = type("Format", (), {"value": "array_record"})

        def __init__(self, examples):
            self.examples = examples

        def as_data_source(self, part):
            return self.examples

    small, large = np.zeros((16, 16, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)
    for examples in (
        [{"image": small, "label": 1}, {"image": large, "label": 1}],
        [{"image": small, "label": 1}, {"image": small}],
        [{"image": small, "label": None}] * 2,
        [{"image": small, "label": 10**30}] * 2,
        [3, 4],
    ):
        monkeypatch.setattr(tfds, "_builder", lambda *_, found=examples: Builder(found))
        with pytest.raises(ImageError, match="train: its examples are damaged"):
            tfds.read(tmp_path, "train")
