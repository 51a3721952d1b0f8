"""Images of one's own: arrays and folders of any number of classes."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ghn_jax import images
from ghn_jax.images import ImageError, from_arrays, own


def some(count=60, classes=3, shape=(32, 32, 3), seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes


def test_arrays_are_split_class_by_class():
    pixels, labels = some()
    data = from_arrays(pixels, labels)
    assert (data.num_classes, data.task.num_classes, data.image_size) == (3, 3, 32)
    sizes = [len(split.labels) for split in (data.train, data.val, data.test)]
    assert sizes == [51, 3, 6]  # of 20 a class two are tested; of 18, one validates
    for split in (data.train, data.val, data.test):
        assert len(set(np.bincount(split.labels))) == 1
    together = np.concatenate([split.images for split in (data.train, data.val, data.test)])
    assert len({image.tobytes() for image in together}) == 60  # none twice, none lost
    np.testing.assert_allclose(data.mean, np.asarray(data.train.images).mean((0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(data.std, np.asarray(data.train.images).std((0, 1, 2)) / 255, rtol=1e-6)


def test_given_test_images_stay_whole():
    data = from_arrays(*some(), test=some(9, seed=1), num_classes=3)
    assert len(data.test.labels) == 9 and len(data.train.labels) + len(data.val.labels) == 60


def test_grey_and_other_sizes_become_32_pixels_of_three_channels():
    grey = np.zeros((40, 8, 16), np.uint8)
    grey[:, :, 2:14] = 200  # the middle, which is kept
    data = from_arrays(grey, np.arange(40) % 2)
    assert data.train.images.shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(data.train.images, 200)
    assert min(data.std) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((some()[0].astype(np.float32), some()[1]), "images of dtype float32: expected uint8"),
        ((some()[0][..., :2], some()[1]), r"images of shape \(60, 32, 32, 2\)"),
        ((some()[0], some()[1][:-1]), "59 labels for 60 images"),
        ((some()[0], some()[1] - 1), "expected integers"),
        ((some()[0], some()[1] * 0), "num_classes=1: expected an integer from 2"),
        ((some()[0], some()[1] * 2), "class 1 of 5 has no image"),
        ((some(3)[0], some(3)[1]), "has a single training image"),
    ],
)
def test_what_is_wrong_with_arrays_is_named(arguments, message):
    with pytest.raises(ImageError, match=message):
        from_arrays(*arguments)


def write(folder, classes=("apple", "pear", "plum"), count=4, size=(40, 20)):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for image in range(count):
            Image.new("RGB", size, (10 + 50 * number, image, 0)).save(folder / name / f"{image}.png")


def test_a_folder_of_class_folders(tmp_path):
    write(tmp_path)
    data = images.load("small_images", tmp_path)
    assert data.num_classes == 3 and data.train.images.shape[1:] == (32, 32, 3)
    for split in (data.train, data.val, data.test):
        np.testing.assert_array_equal(np.asarray(split.images)[:, 0, 0, 0], 10 + 50 * split.labels)
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [6, 3, 3]


def test_folders_to_train_on_and_to_report_on(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "test", count=2)
    data = images.load("small_images", tmp_path)
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [9, 3, 6]


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match="data_dir=None: expected a folder"):
        images.load("small_images")
    write(tmp_path / "one", classes=["apple"])
    with pytest.raises(ImageError, match="one has one class, 'apple'"):
        images.load("small_images", tmp_path / "one")
    write(tmp_path / "empty")
    (tmp_path / "empty" / "quince").mkdir()
    with pytest.raises(ImageError, match="quince has no images"):
        images.load("small_images", tmp_path / "empty")
    write(tmp_path / "damaged")
    (tmp_path / "damaged" / "pear" / "2.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2\.png \(10 bytes\) is not an image"):
        images.load("small_images", tmp_path / "damaged")


@pytest.mark.parametrize("labels", [np.array([0, 2**31 - 1]), np.array([0, 2**32 + 1], np.uint64)])
def test_labels_buy_no_memory_and_do_not_wrap(labels):
    with pytest.raises(ImageError, match=f"labels up to {labels[1]}: expected at most 1,048,575"):
        from_arrays(np.zeros((2, 32, 32, 3), np.uint8), labels)
    with pytest.raises(ImageError, match="num_classes=1000000000000: expected an integer from 2 to 1,048,576"):
        from_arrays(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2), num_classes=10**12)


def test_what_makes_no_array_is_named():
    pixels, labels = some()
    for arguments, more, message in (
        (([[1, 2], [3]], labels), {}, "images make no array"),
        ((pixels, [[1], [2, 3]]), {}, "labels make no array"),
        ((pixels, labels), {"test": pixels}, "test is a ndarray: expected images and labels"),
        ((pixels, labels), {"test": (pixels,)}, "test is a tuple: expected images and labels"),
        ((pixels, labels), {"test": (pixels, labels[:-1])}, "59 labels for 60 test images"),
        ((pixels, labels), {"name": 5}, "Dataset.name=5: expected a text"),
        ((pixels, labels), {"augmentation": "flip"}, "augmentation='flip': expected a Augmentation or a Photo"),
    ):
        with pytest.raises(ImageError, match=message):
            from_arrays(*arguments, **more)
    hidden = np.zeros(np.shape(pixels), bool)
    hidden[0] = True
    with pytest.raises(ImageError, match="images are a masked array"):
        from_arrays(np.ma.array(pixels, mask=hidden), labels)
    data = from_arrays(np.ma.array(pixels), labels)  # where nothing is masked
    for change, message in (({"train": None}, "Dataset.train is a NoneType"), ({"val": (pixels,)}, "val is a tuple")):
        with pytest.raises(ImageError, match=message):
            dataclasses.replace(data, **change)


def test_arrays_that_repeat_themselves_buy_nothing(monkeypatch):
    """A view of one pixel may be of any size."""
    nothing, zero = np.zeros((), np.uint8), np.zeros((), np.int64)

    def view(*shape):
        return np.broadcast_to(nothing, shape)

    with pytest.raises(ImageError, match="8,589,934,592 images: expected at most 33,554,432"):
        from_arrays(view(1 << 33, 32, 32, 1), np.broadcast_to(zero, 1 << 33))
    with pytest.raises(ImageError, match="1,099,511,627,776 labels: expected at most 33,554,432"):
        from_arrays(view(40, 32, 32), np.broadcast_to(zero, 1 << 40))
    with pytest.raises(ImageError, match="images of 65536x65536 pixels: expected at most"):
        from_arrays(view(4, 1 << 16, 1 << 16, 3), np.arange(4) % 2)
    with pytest.raises(ImageError, match="33554432 labels for 4 images"):
        from_arrays(view(4, 32, 32), np.broadcast_to(zero, 1 << 25))

    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(own, "_as_images", no_memory)
    with pytest.raises(ImageError, match="4 images of 8x9 take more memory than there is at 32x32"):
        from_arrays(view(4, 8, 9), np.arange(4) % 2)


def test_names_and_folders_that_are_none():
    for name in (["digits"], None, {}, "d" * 10**5):
        with pytest.raises(ImageError, match=r"^no data set is called .{1,200}; known are digits"):
            images.load(name)
    for folder in (5, b"/tmp", "x" * 5000, "a\0b"):
        with pytest.raises(ImageError, match=r"^data_dir="):
            images.load("cifar10", folder)
