"""Pictures with boxes: read, drawn, scaled and mirrored; boxes that contradict their picture are refused."""

import numpy as np
import penn_fudan_folder
import pytest
from PIL import Image

from ghn_jax.images import ImageError
from ghn_jax.studies.detection import drawn, penn_fudan
from ghn_jax.studies.detection.pictures import Scaling, picture, scenes
from ghn_jax.studies.train_networks import StudyError


@pytest.fixture
def folder(tmp_path):
    penn_fudan_folder.write(tmp_path, 2)
    return tmp_path


def test_masks_and_annotations_give_the_boxes(tmp_path):
    pictures = penn_fudan_folder.write(tmp_path, 3)
    of_masks = penn_fudan.read(tmp_path)
    assert [one.name for one in of_masks] == ["FudanPed00001", "FudanPed00002", "FudanPed00003"]
    for one, known in zip(of_masks, pictures, strict=True):
        np.testing.assert_array_equal(one.pixels, known.pixels)
        np.testing.assert_array_equal(one.boxes, known.boxes[:1])
    for path in (tmp_path / "PedMasks").iterdir():
        path.unlink()
    (tmp_path / "PedMasks").rmdir()
    for one, known in zip(penn_fudan.read(tmp_path), pictures, strict=True):
        np.testing.assert_array_equal(one.boxes, known.boxes)


def test_every_value_of_a_mask_is_a_person():
    mask = np.zeros((6, 8), np.int64)
    mask[1:3, 2:5], mask[4, 7] = 1, 200
    np.testing.assert_array_equal(penn_fudan.boxes_of_mask(mask, "m", (6, 8)), [[2, 1, 5, 3], [7, 4, 8, 5]])


def test_folders_that_are_none(tmp_path, folder):
    with pytest.raises(ImageError, match="there is no folder .*PNGImages: expected the folder of the Penn-Fudan"):
        penn_fudan.read(tmp_path / "nowhere")
    for name in ("PedMasks", "Annotation"):
        (folder / name).rename(folder / f"no{name}")
    with pytest.raises(ImageError, match="neither PedMasks nor Annotation"):
        penn_fudan.read(folder)


def test_masks_that_contradict_their_picture(folder):
    path = folder / "PedMasks" / "FudanPed00002_mask.png"
    Image.fromarray(np.ones((48, 40), np.uint8)).save(path)
    with pytest.raises(
        ImageError, match="FudanPed00002_mask.png has 40x48 pixels: expected those of its picture, 48x48"
    ):
        penn_fudan.read(folder)
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(path)
    with pytest.raises(ImageError, match="FudanPed00002 has no box"):
        penn_fudan.read(folder)
    Image.fromarray(np.ones((48, 48, 3), np.uint8)).save(path)
    with pytest.raises(ImageError, match="pixels of the form RGB, expected one integer a pixel"):
        penn_fudan.read(folder)
    path.unlink()
    with pytest.raises(ImageError, match="FudanPed00002_mask.png cannot be read"):
        penn_fudan.read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Image size (X x Y x C) : 40 x 48 x 3", "line 1: a picture of 40x48 pixels, expected 48x48"),
        ("Bounding box for object 1 : (5, 5) - (60, 20)", r"box 1 of .*, \(4, 4\) to \(60, 20\): expected one inside"),
        ("Bounding box for object 1 : (0, 5) - (6, 20)", r"box 1 of .*: expected one inside"),
        ("Bounding box for object 1 : (9, 5) - (8, 20)", "box 1 of .*: it is empty"),
        ("Bounding box for object 1 : (9, 5) - x", r"line 1: expected a box \(Xmin, Ymin\) - \(Xmax, Ymax\)"),
        ("# nothing", "FudanPed00001 has no box"),
    ],
)
def test_annotations_that_contradict_their_picture(folder, text, message):
    (folder / "PedMasks").rename(folder / "none")
    (folder / "Annotation" / "FudanPed00001.txt").write_text(text)
    with pytest.raises(ImageError, match=message):
        penn_fudan.read(folder)


def test_drawn_pictures_have_their_boxes():
    pictures = drawn.draw(6, 64, seed=1)
    for one, again in zip(pictures[:2], drawn.draw(2, 64, seed=1), strict=True):
        np.testing.assert_array_equal(one.pixels, again.pixels)
    heights = np.concatenate([one.boxes[:, 3] - one.boxes[:, 1] for one in pictures])
    assert (heights >= 0.3 * 64 - 2).all() and (heights <= 0.7 * 64 + 2).all()
    assert 1 <= min(len(one.boxes) for one in pictures) and max(len(one.boxes) for one in pictures) > 1


def test_pictures_are_scaled_and_padded_to_one_size():
    pixels = np.arange(40 * 20 * 3, dtype=np.uint8).reshape(40, 20, 3)
    pictures = [picture("a", pixels, [[2, 4, 10, 40]]), picture("b", pixels[:20], [[0, 0, 20, 20], [1, 2, 3, 4]])]
    # The first one is limited by its longer side, the second one is a square.
    found = scenes(pictures, Scaling(40, 60))
    assert found.canvas == (64, 64)
    np.testing.assert_array_equal(found.sizes, [[60, 30], [40, 40]])
    np.testing.assert_allclose(found.boxes[0, 0], [3, 6, 15, 60])
    np.testing.assert_allclose(found.boxes[1], [[0, 0, 40, 40], [2, 4, 6, 8]])
    np.testing.assert_array_equal(found.present, [[True, False], [True, True]])
    assert not found.pixels[0, 60:].any() and not found.pixels[0, :, 30:].any()
    same = scenes(pictures, Scaling(20, 40))
    np.testing.assert_array_equal(same.pixels[0, :40, :20], pixels)

    turned = same.mirrored(np.array([True, False]))
    np.testing.assert_array_equal(turned.pixels[0, :40, :20], pixels[:, ::-1])
    assert not turned.pixels[0, :, 20:].any()
    np.testing.assert_array_equal(turned.boxes[0], [[10, 4, 18, 40], [0, 0, 0, 0]])
    np.testing.assert_array_equal(turned.boxes[1], same.boxes[1])
    with pytest.raises(StudyError, match="Scaling.shorter=50: expected at most longer=40"):
        Scaling(50, 40)


def test_numbers_and_values_that_no_picture_has():
    box = 'Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (1, 1) - (5, {})'
    for text, message in (
        (box.format("9" * 5000), "line 1: expected a box"),
        (box.format("9" * 400), "line 1: expected a box"),
        (f"Image size (X x Y x C) : {'9' * 5000} x 64 x 3", "a picture of 99999999999999999999x64 pixels"),
    ):
        with pytest.raises(ImageError, match=message):
            penn_fudan.boxes_of_annotation(text, "a", (64, 64))
    assert len(penn_fudan.boxes_of_annotation("Image size (X x Y x C) : 064 x 32 x 3\n" + box.format(6), "a", (32, 64)))
    with pytest.raises(ImageError, match="a has 255 values: expected one for each of at most 200 people"):
        penn_fudan.boxes_of_mask(np.arange(256).reshape(16, 16), "a", (16, 16))
