"""Finding the architecture that a command line asks for: an index of a split, a name, or a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ghn_jax.checks import files
from ghn_jax.checks.fields import Flag, shown, taken
from ghn_jax.deepnets.sampler import ALL_SPLITS, sample_architecture
from ghn_jax.networks.architecture import NAMED_ARCHITECTURES, AnyArchitecture, ArchitectureError, from_json, named

HELP = f"an index of the split, a JSON file, or {', '.join(NAMED_ARCHITECTURES)}; or split/index, as test/7"
"""What an option that takes an architecture accepts."""


_MOST_BYTES = 1 << 20


class FoundArchitecture(NamedTuple):
    """An architecture, what to call it in tables and file names, and its number in its split (0 if it is in none)."""

    name: str
    number: int
    architecture: AnyArchitecture


def find_architecture(text: str, split: str = "val", large_images: bool = False) -> FoundArchitecture:
    """The architecture that `text` means.

    Args:
      text: an index of `split` ("7") or of another split ("test/7"), a name ("resnet50"), or the path of a JSON file
        with what `architecture.to_json` makes, or with an entry of a published meta file.
      split: the split of DeepNets-1M that an index belongs to.
      large_images: what an index of "wide" is for.

    Raises:
      ArchitectureError: an index outside of the split, an unknown name, or a file that describes no architecture.

    >>> ghn_jax.find_architecture('7').architecture.n_cells
    14
    """
    if not isinstance(text, str):
        raise ArchitectureError(f"no architecture {shown(text)}: expected {HELP}")
    large_images = taken(large_images, Flag(), ArchitectureError, "large_images")
    other, slash, number = text.rpartition("/")
    if slash and other in ALL_SPLITS and _is_index(number):
        split, text = other, number
    if _is_index(text):
        try:
            index = int(text)  # of a few thousand digits, Python makes none
            return FoundArchitecture(f"{split}/{index}", index, sample_architecture(split, index, large_images))
        except ValueError as error:
            raise ArchitectureError(str(error)) from None
    if text in NAMED_ARCHITECTURES:
        return FoundArchitecture(text, 0, named(text))
    path = Path(text)
    if path.suffix != ".json":
        raise ArchitectureError(f"no architecture {text!r}: expected {HELP}")
    return FoundArchitecture(path.stem, 0, _read(path))


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _read(path: Path) -> AnyArchitecture:
    try:
        fields = files.parse_json(files.read_regular(path, _MOST_BYTES))
    except OSError as error:
        raise ArchitectureError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ArchitectureError(f"{path} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ArchitectureError(f"{path} holds a {type(fields).__name__}, expected the fields of an architecture")
    try:
        return from_json(fields)
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error
