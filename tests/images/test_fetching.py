"""Fashion-MNIST from the network: whole and the right one, or not at all."""

import gzip

import pytest

from ghn_jax.images import ImageError, fetching


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder that stands for the network; the files have the checksums that are expected."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    digests = {}
    for name in fetching._SHA256:
        content = gzip.compress(name.encode())
        (folder / name).write_bytes(content)
        digests[name] = fetching._sha256(content)
    monkeypatch.setattr(fetching, "_SHA256", digests)
    return folder


def test_files_are_fetched_once(mirror, tmp_path):
    out = fetching.fetch_fashion_mnist(tmp_path / "data", f"{mirror.as_uri()}/")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in mirror.iterdir())
    for path in mirror.iterdir():
        path.unlink()
    assert fetching.fetch_fashion_mnist(out, f"{mirror.as_uri()}/") == out


def test_another_file_is_refused(mirror, tmp_path):
    for content in (gzip.compress(b"another"), b"no gzip"):
        (mirror / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(ImageError, match="train-images-idx3-ubyte.gz is not the file it should be"):
            fetching.fetch_fashion_mnist(tmp_path / "data", f"{mirror.as_uri()}/")
    assert not (tmp_path / "data").exists()


def test_without_a_network_it_is_said_what_to_do(tmp_path):
    with pytest.raises(ImageError, match="cannot be fetched: .*apt-get install dataset-fashion-mnist"):
        fetching.fetch_fashion_mnist(tmp_path / "data", "http://localhost:9/")
