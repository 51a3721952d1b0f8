"""The Penn-Fudan pedestrians: 170 photographs of streets, with boxes around people.

The folder of the archive has `PNGImages/NAME.png`, `PedMasks/NAME_mask.png` (0 is background, every other value one
person) and `Annotation/NAME.txt` (lines of boxes, counted from 1, the last pixel included).  Masks are read where there
are any, as in the paper, else annotations.

Source: Wang et al., Object Detection Combining Recognition and Segmentation, ACCV 2007.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ghn_jax.checks import files
from ghn_jax.images import ImageError
from ghn_jax.images.photos import MOST_FILE_BYTES, decode_numbers, decode_rgb
from ghn_jax.studies.detection.pictures import Picture, picture

_BOX = re.compile(
    r"Bounding box for object (?P<number>\d+).*:\s*\(\s*(?P<left>-?\d{1,9})\s*,\s*(?P<top>-?\d{1,9})\s*\)\s*-"
    r"\s*\(\s*(?P<right>-?\d{1,9})\s*,\s*(?P<bottom>-?\d{1,9})\s*\)\s*$"
)
_SIZE = re.compile(r"Image size \(X x Y x C\)\s*:\s*(\d+)\s*x\s*(\d+)\s*x\s*\d+\s*$")

MOST_TEXT_BYTES = 1 << 20
_MOST_BOXES = 200
"""Of a mask; the archive has at most eight."""


class _Files(NamedTuple):
    """Images by number, for `decode_rgb`."""

    paths: list[Path]

    def read(self, number: int) -> bytes:
        return files.read_regular(self.paths[number], MOST_FILE_BYTES)

    def name(self, number: int) -> str:
        return str(self.paths[number])


def read(folder: str | os.PathLike[str]) -> list[Picture]:
    """All pictures, by name.

    Args:
      folder: with the folders of the archive, usually called `PennFudanPed`.

    Raises:
      ImageError: a folder or file that is missing or damaged, or boxes that contradict their picture, naming it.
      MissingExtraError: there is no Pillow.
    """
    root = files.expand(folder)
    if not (root / "PNGImages").is_dir():
        raise ImageError(f"there is no folder {root / 'PNGImages'}: expected the folder of the Penn-Fudan archive")
    if not (root / "PedMasks").is_dir() and not (root / "Annotation").is_dir():
        raise ImageError(f"{root} has neither PedMasks nor Annotation: expected boxes in one of them")
    paths = sorted((root / "PNGImages").glob("*.png"))
    if not paths:
        raise ImageError(f"there is no picture in {root / 'PNGImages'}: expected files *.png")
    return [_read(path, root) for path in paths]


def _read(path: Path, root: Path) -> Picture:
    mask, annotation = root / "PedMasks" / f"{path.stem}_mask.png", root / "Annotation" / f"{path.stem}.txt"
    pixels = np.asarray(decode_rgb(_Files([path]), 0))
    if mask.parent.is_dir():
        boxes = boxes_of_mask(decode_numbers(_Files([mask]), 0), str(mask), pixels.shape[:2])
    else:
        try:
            text = files.read_regular(annotation, MOST_TEXT_BYTES).decode("utf-8", errors="replace")
        except OSError as error:
            raise ImageError(f"{annotation} cannot be read: {error}") from error
        boxes = boxes_of_annotation(text, str(annotation), pixels.shape[:2])
    return picture(path.stem, pixels, boxes)


def boxes_of_mask(mask: np.ndarray, name: str, size: tuple[int, ...]) -> np.ndarray:
    """Boxes around the pixels of every value but 0.

    Args:
      mask: integers `[height, width]`.
      name: for messages.
      size: height and width of the picture.

    Raises:
      ImageError: a mask of another size, or of very many values.
    """
    if mask.shape != tuple(size):
        raise ImageError(
            f"{name} has {mask.shape[1]}x{mask.shape[0]} pixels: expected those of its picture, {size[1]}x{size[0]}"
        )
    boxes, values = [], np.unique(mask[mask != 0])
    if len(values) > _MOST_BOXES:  # the whole picture is looked at for each
        raise ImageError(f"{name} has {len(values):,} values: expected one for each of at most {_MOST_BOXES} people")
    for value in values:
        rows, columns = np.nonzero(mask == value)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return np.array(boxes, np.float32).reshape(-1, 4)


def boxes_of_annotation(text: str, name: str, size: tuple[int, ...]) -> np.ndarray:
    """Boxes of an annotation.

    Args:
      text: of the file.
      name: for messages.
      size: height and width of the picture.

    Raises:
      ImageError: the annotation is about a picture of another size, or a line of a box that cannot be read.
    """
    boxes = []
    for number, line in enumerate(text.splitlines(), start=1):
        about = _SIZE.match(line)
        if about and [side[:10].lstrip("0") for side in (about[2], about[1])] != list(map(str, size)):
            raise ImageError(
                f"{name}, line {number}: a picture of {about[1][:20]}x{about[2][:20]} pixels, expected "
                f"{size[1]}x{size[0]}"
            )
        if line.startswith("Bounding box for object"):
            found = _BOX.match(line)
            if found is None:
                raise ImageError(
                    f"{name}, line {number}: expected a box (Xmin, Ymin) - (Xmax, Ymax), got {line[:100]!r}"
                )
            left, top, right, bottom = (int(found[edge]) for edge in ("left", "top", "right", "bottom"))
            boxes.append((left - 1, top - 1, right, bottom))
    return np.array(boxes, np.float32).reshape(-1, 4)
