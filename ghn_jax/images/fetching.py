"""Data sets brought from the network, on request: files with known checksums, complete or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from ghn_jax.checks import files
from ghn_jax.images.errors import ImageError

FASHION_MNIST = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
"""Where the authors keep the files."""

# SHA-256 of what is in them: mirrors compress them differently.
_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_MOST_BYTES = 1 << 26
_SECONDS = 30


def fetch_fashion_mnist(folder: str | os.PathLike[str], address: str = FASHION_MNIST) -> Path:
    """Fetches the four files of Fashion-MNIST (30 MB) into a folder; those that are there stay.

    Returns:
      The folder, for `images.load("fashion_mnist", folder)`.

    Raises:
      ImageError: no network, or not the files that were expected; the message says what else can be done.
    """
    folder = Path(folder)
    for name, digest in _SHA256.items():
        if not (folder / name).is_file():
            content = _download(address + name)
            if (found := _sha256(content)) != digest:
                raise ImageError(f"{address}{name} is not the file it should be: SHA-256 {found}, expected {digest}")
            try:
                with files.replacing(folder / name) as temporary:
                    temporary.write_bytes(content)
            except OSError as error:
                raise ImageError(f"{folder / name} cannot be written: {error}") from error
    return folder


def _sha256(content: bytes) -> str:
    """Of what is in a gzipped file; of no more than any file of Fashion-MNIST has."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return hashlib.sha256(file.read(_MOST_BYTES)).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        return f"none ({error})"


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as response:
            content = response.read(_MOST_BYTES + 1)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise ImageError(
            f"{address} cannot be fetched: {error}. Put the four files of Fashion-MNIST into a folder and give it as "
            "data_dir, or run `apt-get install dataset-fashion-mnist`"
        ) from error
    if len(content) > _MOST_BYTES:
        raise ImageError(f"{address} has more than {_MOST_BYTES:,} bytes")
    return content
