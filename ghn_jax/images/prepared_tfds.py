"""Data sets that TensorFlow Datasets (TFDS) has prepared on this machine before; nothing is downloaded.

TFDS itself would try to download what is not prepared, for minutes where there is no network, so its files
are looked for first.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ghn_jax.images.dataset import ImageError


def find(name: str, data_dir: Path | None) -> Path | None:
    """The folder of the newest prepared version of `name` in `data_dir`, else in TFDS's own folder."""
    for folder in _folders(data_dir):
        prepared = [path.parent for path in folder.glob(f"{name}/*.*.*/dataset_info.json")]
        if prepared:
            return max(prepared, key=_version)
    return None


def expected(name: str, data_dir: Path | None) -> str:
    """Says, for an error, which files `find` looks for."""
    return "prepared by TFDS " + " or ".join(
        f"{folder}/{name}/<version>/dataset_info.json" for folder in _folders(data_dir)
    )


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [n, height, width, channels], and labels, int32 [n], of a prepared data set.

    Array records are read without TensorFlow, other formats need it.  Examples with an `id` are sorted by
    it, which is the original order of CIFAR.

    Raises:
      ImageError: TensorFlow is needed and not installed.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" in formats:
        examples = builder.as_data_source(split)
    else:
        try:
            examples = tfds.as_numpy(builder.as_dataset(split=split))
        except ImportError as error:
            raise ImageError(
                f"{folder} is prepared as {', '.join(sorted(formats))}, which only TensorFlow reads: install "
                "tensorflow, or prepare it with file_format='array_record'"
            ) from error
    examples = list(examples)
    if examples and "id" in examples[0]:
        examples.sort(key=lambda example: example["id"])
    images = np.stack([example["image"] for example in examples])
    labels = np.asarray([example["label"] for example in examples], np.int32)
    return images, labels


def _folders(data_dir: Path | None) -> list[Path]:
    default = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    return [default] if data_dir is None else [data_dir, default]


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdecimal())
