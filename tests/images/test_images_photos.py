"""Photographs on disk: what is cut out of them, checked against slow references, and how they are decoded."""

import colorsys
import dataclasses
import io
import os
import signal
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ghn_jax.images import ImageError, PhotoAugmentation, Photos
from ghn_jax.images.photo_views import (
    ATTEMPTS,
    centre_view,
    centre_views,
    change_colours,
    random_box,
    random_view,
    random_views,
    turn_hue,
)
from ghn_jax.images.photos import decode_numbers, decode_rgb, render

PLAIN = PhotoAugmentation(flip=False, brightness=0, contrast=0, saturation=0, hue=0)
WHOLE = dataclasses.replace(PLAIN, area=(1.0, 1.0), ratio=(1.0, 1.0))


def smooth_noise(width, height, seed=0):
    """A picture with detail at all scales."""
    rng = np.random.default_rng(seed)
    picture = sum(
        np.asarray(
            Image.fromarray(rng.integers(0, 85, (max(2, height // k), max(2, width // k), 3), np.uint8)).resize(
                (width, height)
            ),
            np.uint8,
        )
        for k in (1, 8, 64)
    )
    return Image.fromarray(picture)


def slow_resize(pixels, width, height):
    """Bilinear with a filter as wide as a new pixel, written out: every new pixel is a weighted mean of a line."""
    for axis, size in ((1, width), (0, height)):
        lines = np.moveaxis(pixels.astype(float), axis, 0)
        scale = len(lines) / size
        support = max(scale, 1.0)
        rows = []
        for position in range(size):
            centre = (position + 0.5) * scale
            weights = [max(0.0, 1 - abs(index + 0.5 - centre) / support) for index in range(len(lines))]
            rows.append(np.tensordot(weights, lines, 1) / sum(weights))
        pixels = np.moveaxis(np.floor(np.array(rows) + 0.5), 0, axis)
    return pixels


class Given:
    """A source of given contents."""

    def __init__(self, *contents):
        self.contents = contents

    def read(self, number):
        if self.contents[number] is None:
            raise FileNotFoundError("gone")
        return self.contents[number]

    def name(self, number):
        return f"image {number}"


def encoded(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 75), (20, 20), (13, 90)])
def test_a_random_view_is_the_scaled_crop(width, height):
    image = smooth_noise(width, height)
    for seed in range(4):
        left, top, w, h = random_box(width, height, PLAIN, np.random.default_rng(seed))
        view = random_view(PLAIN, 24, np.random.default_rng(seed), image)
        expected = slow_resize(np.asarray(image)[top : top + h, left : left + w], 24, 24)
        assert view.size == (24, 24)
        assert np.abs(np.asarray(view) - expected).max() <= 1  # Pillow computes with integers


@pytest.mark.parametrize(
    ("width", "height", "scaled", "left", "top"),
    [
        (50, 70, (32, 44), 2, 8),  # 32 * 70 / 50 = 44.8, of which the original keeps the whole pixels
        (90, 60, (48, 32), 10, 2),
        (20, 20, (32, 32), 2, 2),  # small images are scaled up
        (41, 16, (82, 32), 27, 2),
    ],
)
def test_the_centre_by_hand(width, height, scaled, left, top):
    image = smooth_noise(width, height)
    expected = slow_resize(np.asarray(image), *scaled)[top : top + 28, left : left + 28]
    assert np.abs(np.asarray(centre_view(28, image)) - expected).max() <= 1


def test_the_centre_of_imagenet_is_224_of_256():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    assert np.array_equal(np.asarray(centre_view(224, Image.fromarray(ramp)))[0, :, 0], np.arange(16, 240))


def slow_box(width, height, augmentation, rng):
    """The rules one after the other, from the same draws."""
    areas = rng.uniform(*augmentation.area, ATTEMPTS)
    logs = rng.uniform(*np.log(augmentation.ratio), ATTEMPTS)
    for area, log in zip(areas, logs, strict=True):
        w = round((width * height * area * np.exp(log)) ** 0.5)
        h = round((width * height * area / np.exp(log)) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(width - w + 1), rng.integers(height - h + 1), w, h
    return None


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 10_000))
def test_boxes(width, height, seed):
    augmentation = PhotoAugmentation()
    left, top, w, h = random_box(width, height, augmentation, np.random.default_rng(seed))
    assert w >= 1 and h >= 1 and 0 <= left <= width - w and 0 <= top <= height - h
    expected = slow_box(width, height, augmentation, np.random.default_rng(seed))
    if expected is not None:
        assert (left, top, w, h) == expected
    else:
        assert abs(left - (width - w - left)) <= 1 and abs(top - (height - h - top)) <= 1


def test_boxes_of_images_that_none_fits():
    large = dataclasses.replace(PLAIN, area=(0.9, 1.0))
    rng = np.random.default_rng(0)
    assert random_box(1000, 30, large, rng) == (480, 0, 40, 30)
    assert random_box(30, 1000, large, rng) == (0, 480, 30, 40)
    assert random_box(1, 1, large, rng) == (0, 0, 1, 1)


def test_boxes_cover_the_area_evenly_and_every_place():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(400, 400, PhotoAugmentation(), rng) for _ in range(4000)])
    left, top, w, h = boxes.T
    shares = w * h / 400**2
    small = shares < 0.5  # all of these fit, whatever their ratio
    assert 0.08 - 1e-3 < shares.min() and np.mean(shares[small]) == pytest.approx(0.29, abs=0.01)
    logs = np.log(w / h)[small]
    assert abs(logs.mean()) < 0.02 and logs.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.05)
    place = left / (400 - w + 1e-9)
    assert np.mean(place) == pytest.approx(0.5, abs=0.02) and place.min() < 0.01 and place.max() > 0.99


def test_half_of_the_views_are_mirrored():
    image = smooth_noise(32, 32)
    mirrored = 0
    for seed in range(100):
        view = np.asarray(random_view(dataclasses.replace(WHOLE, flip=True), 32, np.random.default_rng(seed), image))
        straight = np.array_equal(view, np.asarray(image))
        assert straight != np.array_equal(view, np.asarray(image)[:, ::-1])
        mirrored += not straight
    assert 35 < mirrored < 65


def slow_change(pixels, kind, amount):
    """Every change of colour by its formula, in floating point."""
    pixels = pixels.astype(float)
    grey = pixels @ [0.299, 0.587, 0.114]
    match kind:
        case "brightness":
            changed = amount * pixels
        case "contrast":
            changed = grey.mean() + amount * (pixels - grey.mean())
        case "saturation":
            changed = grey[..., None] + amount * (pixels - grey[..., None])
        case "hue":
            flat = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3) / 255]
            turned = [colorsys.hsv_to_rgb((h + amount) % 1, s, v) for h, s, v in flat]
            changed = 255 * np.reshape(turned, pixels.shape)
    return np.clip(changed, 0, 255)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_changes_of_colour(kind):
    image = smooth_noise(12, 12)
    strength = 0.5 if kind == "hue" else 0.8
    augmentation = dataclasses.replace(PLAIN, **{kind: strength})
    amounts = []
    for seed in range(8):
        changed = np.asarray(change_colours(image, augmentation, np.random.default_rng(seed)))
        # The amount is the one that explains the picture best; it must explain all of it.
        candidates = np.linspace(-strength, strength, 257) + (kind != "hue")
        errors = [np.abs(slow_change(np.asarray(image), kind, a) - changed).mean() for a in candidates]
        best = candidates[int(np.argmin(errors))]
        assert np.abs(slow_change(np.asarray(image), kind, best) - changed).max() < (12 if kind == "hue" else 3)
        amounts.append(best)
    assert np.ptp(amounts) > strength / 2 and len(set(amounts)) == 8


def test_hue_by_hand():
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [90, 90, 90]]], np.uint8))
    third = np.asarray(turn_hue(colours, 1 / 3))[0].tolist()
    assert third == [[0, 255, 0], [0, 0, 255], [90, 90, 90]]


def test_changes_of_colour_come_in_a_random_order():
    image = smooth_noise(8, 8)
    kinds, orders = ("brightness", "contrast", "saturation", "hue"), set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        amounts = [*rng.uniform(0.6, 1.4, 3), rng.uniform(-0.2, 0.2)]
        orders.add(order := tuple(rng.permutation(4).tolist()))
        expected = np.asarray(image)
        for position in order:
            expected = slow_change(expected, kinds[position], amounts[position])
        changed = np.asarray(change_colours(image, PhotoAugmentation(), np.random.default_rng(seed)))
        assert np.abs(changed - expected).mean() < 2.5  # other orders are off by up to 7
    assert len(orders) > 15


def test_views_of_many_images_are_those_of_each():
    images = [smooth_noise(30 + 5 * i, 60 - 3 * i, seed=i) for i in range(8)]
    photos = Photos(Given(*map(encoded, images)), np.arange(8))
    chosen = np.array([5, 0, 0, 7])
    centres = centre_views(photos[chosen], 28)
    for view, number in zip(centres, chosen, strict=True):
        assert np.array_equal(view, np.asarray(centre_view(28, images[number])))
    augmentation = PhotoAugmentation()
    views = random_views(photos[chosen], augmentation, 28, np.random.default_rng(3))
    generators = np.random.default_rng(3).spawn(4)
    for view, number, rng in zip(views, chosen, generators, strict=True):
        assert np.array_equal(view, np.asarray(random_view(augmentation, 28, rng, images[number])))
    assert not np.array_equal(views[1], views[2])


def test_photos_are_indexed_like_arrays():
    photos = Photos(Given(), np.arange(10))
    assert photos[2:7][np.array([4, 0])].numbers.tolist() == [6, 2]
    assert len(photos[:3]) == 3 and len(photos[:None]) == 10


def test_all_colours_become_rgb():
    grey = Image.fromarray(np.full((4, 4), 77, np.uint8))
    source = Given(encoded(grey), encoded(smooth_noise(8, 8).convert("CMYK"), "jpeg"), encoded(grey.convert("LA")))
    assert [decode_rgb(source, number).mode for number in range(3)] == ["RGB"] * 3
    assert np.asarray(decode_rgb(source, 0))[2, 1].tolist() == [77, 77, 77]


def test_broken_images_are_named():
    whole = encoded(smooth_noise(40, 40), "jpeg")
    source = Given(whole, whole[:-200], b"", b"GIF89a" + whole, None)
    assert decode_rgb(source, 0).size == (40, 40)
    for number, content in enumerate(source.contents[1:4], start=1):
        message = rf"image {number} \({len(content)} bytes\) is not an image, or is damaged: "
        with pytest.raises(ImageError, match=message):
            decode_rgb(source, number)
    with pytest.raises(ImageError, match="image 4 cannot be read: gone"):
        decode_rgb(source, 4)
    with pytest.raises(ImageError, match="image 1 "):
        render(Photos(source, np.array([0, 0, 1, 0])), 8, [lambda image: image.resize((8, 8))] * 4)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_every_truncation_is_one_error(kind):
    whole = encoded(smooth_noise(12, 12), kind)
    shortest = len(whole) - (2 if kind == "jpeg" else 16)  # the end marker, the IEND chunk and a checksum
    for length in range(shortest):
        try:
            decode_rgb(Given(whole[:length]), 0)
        except ImageError as error:
            assert "image 0" in str(error)
        else:
            assert length > len(whole) - 40, f"{length} of {len(whole)} bytes were taken for the whole"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"area": (0.0, 1.0)}, r"area=\(0.0, 1.0\): expected 2 entries"),
        ({"area": (0.5, 0.1)}, "area="),
        ({"ratio": (2.0, 0.5)}, "ratio=.*in order"),
        ({"brightness": 1.5}, "brightness=1.5: expected a number from 0 to 1"),
        ({"hue": 0.6}, "hue=0.6: expected a number from 0 to 0.5"),
    ],
)
def test_bad_augmentation(fields, message):
    with pytest.raises(ImageError, match=message):
        PhotoAugmentation(**fields)


def test_a_photograph_of_thousands_of_scans():
    class Source:
        def __init__(self, content):
            self.content = content

        def read(self, number):
            return self.content

        def name(self, number):
            return "photo.jpg"

    content = encoded(Image.new("RGB", (1000, 1000)), "jpeg")
    assert decode_rgb(Source(content + b"\xff\xda" * 100), 0).size == (1000, 1000)
    with pytest.raises(ImageError, match=r"photo.jpg .* is damaged: 1000x1000 pixels in 5,001 scans"):
        decode_rgb(Source(content + b"\xff\xda" * 5000), 0)


def test_a_forked_process_decodes_with_threads_of_its_own():
    class Source:
        def read(self, number):
            return encoded(Image.new("RGB", (4, 4)))

    photos = Photos(Source(), np.arange(3))
    assert render(photos, 4, [lambda image: image] * 3).shape == (3, 4, 4, 3)
    with warnings.catch_warnings(action="ignore"):  # of Python and JAX, about the fork
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        render(photos, 4, [lambda image: image] * 3)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_whatever_pillow_raises_is_one_error(monkeypatch):
    """Of some palettes that is an AssertionError without a word."""

    class Source:
        def read(self, number):
            return encoded(Image.new("P", (4, 4)))

        def name(self, number):
            return "photo"

    def fails(*_):
        raise AssertionError

    monkeypatch.setattr(Image.Image, "convert", fails)
    with pytest.raises(ImageError, match=r"photo \(\d+ bytes\) is not an image, or is damaged: AssertionError"):
        decode_rgb(Source(), 0)


def test_a_few_bytes_hold_few_pixels():
    """What a header claims would take memory before anything shows that the pixels are missing."""
    for mode, color in (("1", 1), ("L", 7), ("RGB", (1, 2, 3))):  # as few bytes a pixel as there can be
        image = Image.new(mode, (2000, 2000), color)
        assert decode_rgb(Given(encoded(image)), 0).size == (2000, 2000)
    header = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, b"IDAT" + pixels, b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    for decode in (decode_rgb, decode_numbers):
        with pytest.raises(ImageError, match=r"9000x9000 pixels in \d+ bytes, no image has so many"):
            decode(Given(content), 0)
