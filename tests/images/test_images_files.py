"""Image files: hand-made ones are read back exactly, broken ones give one error."""

import dataclasses
import gzip
import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from ghn_jax.images import ImageError, cifar, fashion_mnist, load
from ghn_jax.images.formats import cifar_pickle
from ghn_jax.images.formats.cifar_pickle import read_python_batch
from ghn_jax.images.formats.idx import read_idx


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch, tmp_path):
    """What the machine itself may hold does not take part."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx_values(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx_bytes(array))
    (tmp_path / "zipped").write_bytes(gzip.compress(idx_bytes(array)))
    assert np.array_equal(read_idx(tmp_path / "plain", axes=3), array)
    assert np.array_equal(read_idx(tmp_path / "zipped", axes=3), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes that begin with nothing; expected .* begins with 00000801"),
        (b"\x00\x00\x0d\x01abcdefgh", "12 bytes that begin with 00000d01; expected .* begins with 00000801"),
        (
            idx_bytes(np.zeros((2, 2), np.uint8)),
            "16 bytes that begin with 00000802; expected an IDX file of uint8 with 1 axes",
        ),
        (b"\x00\x00\x08\x01\x00", "5 bytes that begin with 00000801; expected .* at least 8 bytes"),
        (idx_bytes(np.zeros(9, np.uint8))[:-1], r"found 16 bytes \(uncompressed\), expected 17 for shape \[9\]"),
        (idx_bytes(np.zeros(9, np.uint8)) + b"x", "found 18 bytes .* expected 17"),
        (gzip.compress(idx_bytes(np.zeros(9, np.uint8)), mtime=0)[:-9], r"damaged gzip file of \d+ bytes"),
        (b"\x1f\x8bnot a gzip file", "damaged gzip file of 17 bytes"),
    ],
)
def test_broken_idx_files(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        read_idx(path, axes=1)
    assert str(path) in str(error.value)


def write_fashion(directory, num_train=20, num_test=3, suffix=""):
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", num_train), ("t10k", num_test)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            content = idx_bytes(array)
            (directory / f"{part}-{kind}-ubyte{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return arrays


@pytest.mark.parametrize(
    ("folder", "suffix"), [("", ""), ("", ".gz"), ("FashionMNIST/raw", ""), ("fashion-mnist", ".gz")]
)
def test_fashion_mnist_values(tmp_path, folder, suffix):
    arrays = write_fashion(tmp_path / folder, suffix=suffix)
    data = load("fashion_mnist", tmp_path)
    assert [len(split.images) for split in (data.train, data.val, data.test)] == [18, 2, 3]
    grey, labels = arrays["train"]
    assert np.array_equal(data.val.images[:, 2:30, 2:30, 1], grey[18:])
    assert np.array_equal(data.train.labels, labels[:18])
    assert np.array_equal(data.test.images[:, 2:30, 2:30, 2], arrays["t10k"][0])
    assert data.test.images.sum() == 3 * arrays["t10k"][0].sum(dtype=int)  # nothing but black around


def test_fashion_mnist_files_that_do_not_fit(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(ImageError, match="t10k-labels-idx1-ubyte has 4 labels: expected 3"):
        load("fashion_mnist", tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((4, 28, 27), np.uint8)))
    with pytest.raises(ImageError, match=r"t10k-images-idx3-ubyte has images of shape \(28, 27\)"):
        load("fashion_mnist", tmp_path)


def test_fashion_mnist_not_found(tmp_path):
    with pytest.raises(ImageError) as error:
        load("fashion_mnist", tmp_path)
    for place in ("FashionMNIST/raw", "debian", "fashion_mnist", "nothing/fashion_mnist"):
        assert f"  {tmp_path / place}\n" in str(error.value)
    for expected in ("t10k-labels-idx1-ubyte", "apt-get install dataset-fashion-mnist"):
        assert expected in str(error.value)


def test_fashion_mnist_of_debians_folder_is_the_second_choice(tmp_path):
    write_fashion(tmp_path / "debian", num_train=20)
    (tmp_path / "empty").mkdir()
    assert len(load("fashion_mnist", tmp_path / "empty").train.images) == 18
    write_fashion(tmp_path / "own", num_train=30)
    assert len(load("fashion_mnist", tmp_path / "own").train.images) == 27


def test_incomplete_fashion_mnist(tmp_path):
    write_fashion(tmp_path / "debian")
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ImageError, match=r"lacks t10k-labels-idx1-ubyte \(plain or .gz\)"):
        load("fashion_mnist", tmp_path)


DEBIAN_FOLDER = fashion_mnist.DEBIAN_FOLDER


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian(monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", DEBIAN_FOLDER)
    data = load("fashion_mnist")
    assert [len(split.images) for split in (data.train, data.val, data.test)] == [54_000, 6_000, 10_000]
    assert data.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert data.test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    counts = sum(np.bincount(split.labels) for split in (data.train, data.val))
    assert counts.tolist() == [6000] * 10
    histogram = np.bincount(data.train.images[..., 0].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = np.average(values, weights=histogram)
    std = np.sqrt(np.average((values - mean) ** 2, weights=histogram))
    np.testing.assert_allclose([mean, std], [data.mean[0], data.std[0]], atol=1e-4)


TINY = {
    source.name: dataclasses.replace(source, images_per_train_file=20, images_per_test_file=10)
    for source in (cifar.CIFAR10_FILES, cifar.CIFAR100_FILES)
}
"""The two CIFAR sources with small files."""


def cifar_arrays(source):
    """Rows of pixels and labels for every file."""
    rng = np.random.default_rng(1)
    counts = dict.fromkeys(source.train_files, 20) | dict.fromkeys(source.test_files, 10)
    return {
        name: (rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, source.num_classes, count, np.uint8))
        for name, count in counts.items()
    }


def write_binary(source, directory):
    directory.mkdir(parents=True, exist_ok=True)
    arrays = cifar_arrays(source)
    for name, (pixels, labels) in arrays.items():
        superclass = [np.full_like(labels, 19)] * (source.labels_per_image - 1)
        records = np.concatenate([np.stack([*superclass, labels], 1), pixels], axis=1)
        (directory / (name + ".bin")).write_bytes(records.tobytes())
    return arrays


class Python2Pickler(pickle._Pickler):
    """Writes bytes the way Python 2 wrote its strings, as in the published files."""

    def save_python2_string(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_python2_string}


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_python(source, directory, dump=python2_pickle):
    directory.mkdir(parents=True, exist_ok=True)
    arrays = cifar_arrays(source)
    for name, (pixels, labels) in arrays.items():
        batch = {
            b"batch_label": b"a batch",
            source.labels_key.encode(): labels.tolist(),
            b"coarse_labels": [0] * len(labels),
            b"data": pixels,
            b"filenames": [b"an_image.png"] * len(labels),
        }
        (directory / name).write_bytes(dump(batch))
    return arrays


def assert_read_exactly(source, data, arrays):
    train, val, test = data.train, data.val, data.test
    pixels = np.concatenate([arrays[name][0] for name in source.train_files])
    labels = np.concatenate([arrays[name][1] for name in source.train_files])
    assert np.array_equal(np.concatenate([train.labels, val.labels]), labels)
    assert len(val.images) == len(labels) // 10
    images = np.concatenate([train.images, val.images])
    for channel in range(3):  # 1,024 red values, row by row, then green, then blue
        plane = pixels[:, 1024 * channel : 1024 * (channel + 1)].reshape(-1, 32, 32)
        assert np.array_equal(images[..., channel], plane)
    test_pixels, test_labels = arrays[source.test_files[0]]
    assert np.array_equal(test.labels, test_labels)
    assert test.images[3, 5, 7].tolist() == test_pixels[3, [5 * 32 + 7, 1024 + 5 * 32 + 7, 2048 + 5 * 32 + 7]].tolist()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_cifar_binary_values(tmp_path, name, in_folder):
    source = TINY[name]
    arrays = write_binary(source, tmp_path / source.binary_folder if in_folder else tmp_path)
    assert_read_exactly(source, cifar.load(source, tmp_path), arrays)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("in_folder", [True, False])
def test_cifar_python_values(tmp_path, name, in_folder):
    source = TINY[name]
    arrays = write_python(source, tmp_path / source.python_folder if in_folder else tmp_path)
    assert b"numpy.core.multiarray" in next(tmp_path.rglob(source.test_files[0])).read_bytes()
    assert_read_exactly(source, cifar.load(source, tmp_path), arrays)


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_pickled_by_python_3(tmp_path, protocol):
    arrays = write_python(TINY["cifar10"], tmp_path, lambda batch: pickle.dumps(batch, protocol))
    assert_read_exactly(TINY["cifar10"], cifar.load(TINY["cifar10"], tmp_path), arrays)


def test_cifar_of_the_published_size(tmp_path):
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    for number, name in enumerate(names):
        with (tmp_path / name).open("wb") as file:  # all zeros but the last record
            file.truncate(30_730_000 - 3073)
            file.seek(0, os.SEEK_END)
            file.write(bytes([number]) + bytes(3071) + b"\xff")
    data = load("cifar10", tmp_path)
    assert [len(split.images) for split in (data.train, data.val, data.test)] == [45_000, 5_000, 10_000]
    assert data.train.labels[9_999:40_000:10_000].tolist() == [0, 1, 2, 3]
    assert data.val.labels[-1] == 4 and data.test.labels[-1] == 5
    assert data.test.images[-1, 31, 31].tolist() == [0, 0, 255]


def test_truncated_cifar_binary(tmp_path):
    write_binary(TINY["cifar100"], tmp_path)
    path = tmp_path / "test.bin"
    path.write_bytes(path.read_bytes()[:-3074])
    with pytest.raises(ImageError, match=r"test.bin has 27666 bytes: expected 30740 \(10 records of 3074 bytes\)"):
        cifar.load(TINY["cifar100"], tmp_path)


def test_foreign_labels_in_cifar_binary(tmp_path):
    write_binary(TINY["cifar10"], tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(b"\xc8" + path.read_bytes()[1:])
    with pytest.raises(ImageError, match=r"data_batch_2.bin has labels from \d to 200: expected 0..9"):
        cifar.load(TINY["cifar10"], tmp_path)


ROWS = np.zeros((10, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": ROWS[:9], "labels": [0] * 9}, r"data of shape \(9, 3072\): expected 10 rows of 3072 unsigned"),
        ({"data": ROWS.astype(float), "labels": [0] * 10}, "an array of dtype 'f8': expected 'u1', unsigned bytes"),
        ({"labels": [0] * 10}, "no array of unsigned bytes as its 'data'"),
        ({"data": ROWS}, "no list of integers as its 'labels': expected 10 labels"),
        ({"data": ROWS, "labels": ["a"] * 10}, "no list of integers as its 'labels'"),
        ({"data": ROWS, "labels": [0] * 9}, "has 9 labels: expected 10"),
        ({"data": ROWS, "labels": [-1] * 10}, "labels from -1 to -1: expected 0..9"),
        ([ROWS], "holds a list: expected a dictionary"),
    ],
)
def test_foreign_python_batches(tmp_path, batch, message):
    write_python(TINY["cifar10"], tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(ImageError, match=f"test_batch.*{message}"):
        cifar.load(TINY["cifar10"], tmp_path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_nothing(tmp_path):
    content = pickle.dumps({"data": Malicious(tmp_path / "made")})
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(ImageError, match="mkdir is not part of an array"):
        read_python_batch(tmp_path / "batch")
    assert not (tmp_path / "made").exists()


def test_arrays_keep_their_order(tmp_path):
    array = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": array, 3: [1, "b"]}, 2))
    batch = read_python_batch(tmp_path / "batch")
    assert batch["data"].tolist() == [[0, 1, 2], [3, 4, 5]] and batch[3] == [1, "b"]


def test_a_damaged_state_does_not_reach_numpy(tmp_path):
    content = pickle.dumps({"data": np.arange(20, dtype=np.uint8)}, 2)
    flags = content.index(b"K\x00t", content.index(b"numpy\ndtype"))  # of the dtype, the last entry of its state
    (tmp_path / "batch").write_bytes(content[:flags] + b"K\xff" + content[flags + 2 :])
    assert read_python_batch(tmp_path / "batch")["data"].tolist() == list(range(20))
    assert np.dtype(np.uint8).flags == 0  # NumPy would have changed the one that all arrays share


def test_arrays_of_another_length_are_refused(tmp_path):
    content = pickle.dumps({"data": np.arange(20, dtype=np.uint8)}, 2)
    (tmp_path / "batch").write_bytes(content.replace(b"K\x14\x85", b"K\x15\x85"))
    with pytest.raises(ImageError, match=r"an array of shape \(21,\) with 20 bytes"):
        read_python_batch(tmp_path / "batch")


def test_every_truncation_and_noise_is_one_error(tmp_path):
    path = tmp_path / "batch"
    content = python2_pickle({b"data": np.arange(20, dtype=np.uint8), b"labels": [1, 2]})
    rng = np.random.default_rng(0)
    for broken in [content[:length] for length in range(len(content))] + [rng.bytes(50) for _ in range(200)]:
        path.write_bytes(broken)
        with pytest.raises(ImageError, match=r"batch \(\d+ bytes\) is not a pickled CIFAR batch, or is truncated"):
            read_python_batch(path)


def test_cifar_not_found(tmp_path):
    with pytest.raises(ImageError) as error:
        load("cifar100", tmp_path)
    for place in ("cifar-100-binary: train.bin, test.bin", "cifar-100-python: train, test", "cifar100: what TFDS"):
        assert str(tmp_path / place) in str(error.value)
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in str(error.value)
    with pytest.raises(ImageError, match="<data_dir>: data_batch_1.bin(.|\n)*nothing.cifar10: what TFDS prepared"):
        load("cifar10")


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_incomplete_cifar(tmp_path, write):
    write(TINY["cifar10"], tmp_path / "cifar-10")
    (path,) = tmp_path.glob("cifar-10/data_batch_3*")
    path.unlink()
    with pytest.raises(ImageError, match=f"cifar-10 lacks {path.name} of the files of cifar10"):
        cifar.load(TINY["cifar10"], tmp_path / "cifar-10")


def test_pickles_that_make_much_of_little(tmp_path, monkeypatch):
    path = tmp_path / "batch"
    monkeypatch.setattr(cifar_pickle, "_MOST_INSTRUCTIONS", 1000)
    path.write_bytes(b"\x80\x02(" + b"]" * 2000 + b"l.")
    with pytest.raises(ImageError, match=r"batch \(2005 bytes\) .*: it has more than 1,000 instructions"):
        read_python_batch(path)
    # Python looks at all of a key, one inside of the other, and has no stack for that.
    monkeypatch.setattr(cifar_pickle, "_MOST_INSTRUCTIONS", 1 << 20)
    path.write_bytes(b"\x80\x02})" + b"\x85q\0" * 1100 + b"Ns.")
    with pytest.raises(ImageError, match="it has more than 1,000 tuples"):
        read_python_batch(path)
    path.write_bytes(b"\x80\x02cnumpy\nndarray\n)K\0K\0\x87R.")
    with pytest.raises(ImageError, match="an array of another class"):
        read_python_batch(path)
    # Numbers with one hash: every key of a dictionary of them is compared with all others.
    path.write_bytes(pickle.dumps({number * (2**61 - 1): 0 for number in range(1, 20)}, 2))
    with pytest.raises(ImageError, match="a number that no batch has"):
        read_python_batch(path)
    monkeypatch.setattr(cifar_pickle, "_MOST_BYTES", 4000)
    text = b"X" + struct.pack("<I", 500) + b"a" * 500 + b"q\1X\6\0\0\0latin1q\2\x86RK\0"
    path.write_bytes(b"\x80\x02}(c_codecs\nencode\nq\3" + text + b"h\3h\1h\2\x86RK\0" * 20 + b"u.")
    with pytest.raises(ImageError, match="more than 4,000 bytes"):
        read_python_batch(path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"\x80\x02})" + b"2\x86" * 60 + b"Ns.", "DUP, is not one that a batch needs"),
        (b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"Ns.", "asks for a tuple again"),
        (b"\x80\x04})" + b"".join(b"\x94h%c\x86" % n for n in range(60)) + b"Ns.", "asks for a tuple again"),
        (b"\x80\x02})(1q\0h\0\x86Ns.", "POP_MARK, is not one that a batch needs"),
        (b"\x80\x02})\x80\x02q\0h\0\x86Ns.", "asks for a tuple again"),
        (b"\x80\x02}(U\4dataK\1X\4\0\0\0dataK\2u.", "has a key twice"),
        (b"\x80\x02}(U\4dataK\1U\4dataK\2u.", "has a key twice"),
        (b"\x80\x02}(U\6labelsq\0K\1h\0K\2u.", "has a key twice"),
        (b"\x80\x04}(C\x04data\x94K\1h\0K\2u.", "has a key twice"),
        (b"\x80\x02}(U\4nameK\1X\4\0\0\0nameK\2u.", "it has a key twice, as text and as bytes"),
    ],
)
def test_a_tuple_is_in_one_place(code, message, tmp_path):
    """Python computes the hash of a tuple from all that is in it: 60 that hold each other twice take it hours."""
    (tmp_path / "batch").write_bytes(code)
    with pytest.raises(ImageError, match=message):
        read_python_batch(tmp_path / "batch")


def test_a_binary_file_of_another_size_is_not_read(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.touch()
    os.truncate(path, (1 << 28) - 1)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="has 268435455 bytes: expected 30730000"):
            cifar._read_binary(cifar.CIFAR10_FILES, path, 10_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_truth_values_are_no_labels(tmp_path):
    batch = {b"data": np.zeros((2, cifar.PIXELS), np.uint8), b"labels": [True, 1]}
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(ImageError, match="has no list of integers as its 'labels'"):
        cifar._read_python(cifar.CIFAR10_FILES, tmp_path / "batch", 2)


def test_a_gzipped_file_is_one_piece(tmp_path):
    whole = idx_bytes(np.arange(3, dtype=np.uint8))
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(whole) + bytes(8))  # as on tapes
    assert read_idx(path, 1).tolist() == [0, 1, 2]
    path.write_bytes(gzip.compress(whole) + gzip.compress(b""))
    with pytest.raises(ImageError, match="labels.gz: damaged gzip file .*more follows after its end"):
        read_idx(path, 1)
    path.write_bytes(gzip.compress(whole)[:-1])
    with pytest.raises(ImageError, match="labels.gz: damaged gzip file .*it was cut"):
        read_idx(path, 1)


def test_an_array_of_nothing_times_much(tmp_path):
    (tmp_path / "images").write_bytes(b"\0\0\x08\x03" + struct.pack(">LLL", 0, 2**32 - 1, 2**32 - 1))
    with pytest.raises(ImageError, match="images: nothing is in an array of shape"):
        read_idx(tmp_path / "images", 3)
