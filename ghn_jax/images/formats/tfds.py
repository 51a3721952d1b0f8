"""Data sets that TensorFlow Datasets (TFDS) has prepared on this machine, read without TensorFlow.

Only files are looked at until a prepared data set is found: without a network, asking TFDS for one that is
not there goes on for minutes.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax.checks import files
from ghn_jax.errors import GHNError, extra
from ghn_jax.images.errors import ImageError
from ghn_jax.images.formats.tfrecord import read_index
from ghn_jax.images.split import Split

_MOST_BYTES = 1 << 30
"""Of a file that is read at once; those of CIFAR have 130 million."""

_MOST_DESCRIPTION_BYTES = 1 << 24

_VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")


def folders(data_dir: Path | None) -> list[Path]:
    """Where prepared data may be: `data_dir`, and $TFDS_DATA_DIR or else ~/tensorflow_datasets."""
    default = files.expand(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return [default] if data_dir is None else [data_dir, default]


def find(name: str, data_dir: Path | None) -> Path | None:
    """The folder of the newest prepared version of data set `name`, None without one."""
    for folder in folders(data_dir):
        versions = {
            tuple(int(number) for number in info.parent.name.split(".")): info.parent
            for info in (folder / name).glob("*.*.*/dataset_info.json")
            if _VERSION.fullmatch(info.parent.name)
        }
        if versions:
            return versions[max(versions)]
    return None


def read(folder: Path, part: str) -> Split:
    """The images [n, h, w, c] and labels of `part` ("train" or "test") in a prepared folder.

    TFDS shuffles what it prepares; where it kept the original numbers (CIFAR), the original order is restored.

    Raises:
      ImageError: no such part, a number of images other than recorded, or files in a format that cannot be read.
    """
    builder = _builder(folder, part)
    try:
        examples = _examples(folder, part, builder)
        _check_count(folder, part, builder, len(examples))
        if "id" in builder.info.features:
            examples.sort(key=lambda example: example["id"])
        images = np.stack([example["image"] for example in examples])
        return Split(images, np.array([example["label"] for example in examples], np.int32))
    except GHNError:
        raise
    except Exception as error:  # nor for damaged examples
        raise ImageError(f"{folder}, {part}: its examples are damaged: {error or type(error).__name__}") from error


def _examples(folder: Path, part: str, builder: Any) -> list[Any]:
    """The examples of a part, decoded."""
    file_format = builder.info.file_format.value
    if file_format == "array_record":
        return list(builder.as_data_source(part))
    if file_format != "tfrecord":
        raise ImageError(f"{folder} is in format {file_format!r}: expected 'tfrecord' or 'array_record'")
    decode = builder.info.features.deserialize_example_np
    paths = builder.info.splits[part].filepaths
    return [decode(record) for path in paths for record in read_tfrecords(Path(path))]


def read_lazily(folder: Path, part: str) -> Split:
    """The photographs, left on disk, and labels of a part, in the order of their label and file name.

    Raises:
      ImageError: no such part, a missing or damaged file, a number of images other than recorded, or files in another
        format than TFRecord.
    """
    builder = _builder(folder, part)
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise ImageError(
            f"{folder} is in format {file_format!r}: expected 'tfrecord', in which TFDS prepares by default "
            f"(`tfds convert_format` changes it)"
        )
    paths = [Path(path) for path in builder.info.splits[part].filepaths]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise ImageError(f"{folder} lacks {len(absent)} of {len(paths)} files of split {part!r}: {absent[0]}")
    split = read_index(paths)
    _check_count(folder, part, builder, len(split.labels))
    return split


def _builder(folder: Path, part: str) -> Any:
    _check_descriptions(folder)
    with extra("tfds"):
        import tensorflow_datasets as tfds  # its import takes seconds, and only prepared data needs it

    try:
        builder = tfds.builder_from_directory(os.fspath(folder))
    except Exception as error:  # it has no errors of its own for damaged descriptions
        raise ImageError(f"{folder} is damaged, or was not prepared by TFDS: {error}") from error
    if part not in builder.info.splits:
        raise ImageError(f"{folder} has no split {part!r}: it has {', '.join(builder.info.splits) or 'none'}")
    return builder


def _check_descriptions(folder: Path) -> None:
    """Checks that what TFDS reads without asking how much it is can be read: all but the examples.

    Raises:
      ImageError: something that is no file, or a very large one.
    """
    try:
        for entry in sorted(folder.iterdir()):
            if entry.suffix in (".json", ".txt"):
                files.open_regular(entry, _MOST_DESCRIPTION_BYTES).close()
    except OSError as error:
        raise ImageError(f"{folder} is damaged, or was not prepared by TFDS: {error}") from error


def _check_count(folder: Path, part: str, builder, count: int) -> None:
    expected = builder.info.splits[part].num_examples
    if count != expected:
        raise ImageError(f"{folder} has {count} images in split {part!r}: expected {expected}")


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length (uint64), checksum (4 bytes), record, checksum (4 bytes).

    Checksums are not verified.

    Raises:
      ImageError: the file ends within a record.
    """
    try:
        content = files.read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    position = 0
    while position < len(content):
        start = position + 12
        length = struct.unpack_from("<Q", content, position)[0] if start <= len(content) else 0
        position = start + length + 4
        if position > len(content):
            raise ImageError(f"{path} has {len(content)} bytes: expected at least {position}, it ends within a record")
        yield content[start : start + length]
