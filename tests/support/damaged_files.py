"""Damaged and hostile files for every reader, in a process with little memory: each is read rightly or is our error.

Run by tests/robustness/test_damaged_files.py; prints a line for everything that went another way.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gzip
import io
import json
import os
import pathlib
import pickle
import random
import resource
import struct
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
import torch_files
from PIL import Image

from ghn_jax.deepnets import lookup
from ghn_jax.deepnets.files import writing
from ghn_jax.deepnets.files.reading import DeepNetsFile, meta_path
from ghn_jax.errors import GHNError
from ghn_jax.evaluation import json_lines
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.images.formats import cifar_pickle, idx, image_folder, tfrecord
from ghn_jax.images.photo_views import centre_view
from ghn_jax.images.photos import decode_rgb
from ghn_jax.networks.architecture import DARTS, Architecture, to_json
from ghn_jax.networks.program_graph import build_graph
from ghn_jax.weights import hypernetwork_file, loading, pretrained

SMALL = HypernetConfig(max_shape=(8, 8, 3, 3), hid=8)
ODD = (None, True, -1, 0, 2.5, 10**9, 2**63, 10**30, float("nan"), float("inf"), "no", "", "9" * 5000, [], {}, [[[[]]]])
"""Values for any field."""

Damage = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, rng: random.Random) -> bytes:
    """Changes some bits."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 30))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """Leaves the end away, or adds something to it."""
    return content[: rng.randrange(len(content))] if rng.random() < 0.8 else content + rng.randbytes(100)


def enlarge(content: bytes, rng: random.Random) -> bytes:
    """Puts a huge or negative number in some place, as a length may be."""
    width = rng.choice((2, 4, 8))
    place = rng.randrange(max(1, min(len(content), 400) - width))
    number = rng.choice((2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 2), 2**15, 0))
    order = rng.choice(("little", "big"))
    return content[:place] + number.to_bytes(width, order) + content[place + width :]


BYTES: tuple[Damage, ...] = (flip, cut, enlarge)


def odd_json(value: Any, rng: random.Random) -> str:
    """JSON with a value somewhere replaced, left out, or nested deeply."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def visit(inner: Any) -> None:
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, item in items:
            places.append((inner, key))
            visit(item)

    visit(value)
    owner, key = rng.choice(places)
    action = rng.randrange(10)
    if action == 0:
        del owner[key]
    elif action == 1:
        owner[key] = "PLACE"
        return json.dumps(value).replace('"PLACE"', "[" * 100_000)
    elif action == 2 and isinstance(owner[key], list):
        owner[key] = owner[key] * rng.choice((3, 1000))
    else:
        owner[key] = rng.choice(ODD)
    return json.dumps(value)


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def damaged_npz(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Weights of ours: the archive, its entries, and its configuration."""
    pretrained.write(folder / "good.npz", torch_files.random_ghn(SMALL), {"dataset": "x"}, np.float32)
    with zipfile.ZipFile(folder / "good.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    content = (folder / "good.npz").read_bytes()
    about = {"ghn": dataclasses.asdict(SMALL) | {"max_shape": [8, 8, 3, 3]}, "dataset": "x"}
    path = folder / "bad.npz"
    while True:
        if rng.random() < 0.4:
            path.write_bytes(rng.choice(BYTES)(content, rng))
        else:
            changed, name = dict(entries), rng.choice(list(entries))
            match rng.randrange(4):
                case 0:
                    changed["__about__.npy"] = npy(np.array(odd_json(about, rng)))
                case 1:
                    changed[name] = rng.choice(BYTES)(entries[name], rng)
                case 2:
                    shape = rng.choice(("(9223372036854775807,)", "(100000, 100000)", "(-1,)", "(0,)", "()"))
                    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
                    changed[name] = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + bytes(64)
                case _:
                    changed[name] = bytes(rng.choice((10, 50_000_000)))
            path.write_bytes(torch_files.zipped(changed, zipfile.ZIP_DEFLATED))
        yield "npz", lambda: loading.load(path)


def damaged_safetensors(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    hypernetwork_file.write(folder / "good.safetensors", torch_files.random_ghn(SMALL), {})
    content = (folder / "good.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, path = json.loads(content[8 : 8 + length]), folder / "bad.safetensors"
    while True:
        text = odd_json(header, rng).encode()
        odd = len(text).to_bytes(8, "little") + text + content[8 + length :]
        path.write_bytes(rng.choice(BYTES)(content, rng) if rng.random() < 0.5 else odd)
        yield "safetensors", lambda: loading.load(path)


def damaged_torch(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Checkpoints of the original: the archive, its pickle, its configuration."""
    contents, storages = torch_files.checkpoint(SMALL, torch_files.random_state_dict(SMALL))
    good, path = torch_files.archived(contents, storages), folder / "bad.pt"
    pickled = torch_files.pickled(contents)
    while True:
        match rng.randrange(3):
            case 0:
                path.write_bytes(rng.choice(BYTES)(good, rng))
            case 1:
                code = rng.choice(BYTES)(pickled, rng)
                path.write_bytes(torch_files.zipped({"ghn/data.pkl": code, **storages, "ghn/version": b"3\n"}))
            case _:
                field, value = rng.choice(list(contents["config"])), rng.choice(ODD[:12])
                config = contents["config"] | {field: value}
                try:
                    path.write_bytes(torch_files.archived(contents | {"config": config}, storages))
                except (OverflowError, ValueError):
                    continue
        yield "torch", lambda: loading.load(path)


def damaged_architectures(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    good = [to_json(Architecture(DARTS, n_cells=3, C=8)), {"kind": "resnet", "depths": [1, 1], "width": 8}]
    path = folder / "bad.json"
    while True:
        path.write_text(odd_json(rng.choice(good), rng))
        yield "architecture", lambda: build_graph(lookup.find_architecture(str(path)).architecture)


def damaged_deepnets(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """HDF5 files with other objects than they should have (damaged bytes are h5py's own matter), and meta files."""
    good = folder / "deepnets1m_eval.hdf5"
    writing.write_file(good, {"val": [writing.stored_network("val", 0)]})
    content, meta = good.read_bytes(), json.loads(meta_path(good).read_text())
    path = folder / "bad" / good.name
    path.parent.mkdir()

    def put(file: h5py.File, name: str) -> None:
        del file[name]
        match rng.randrange(9):
            case 0:
                file.create_group(name)
            case 1:
                file[name] = rng.choice((3, 2.5, "text", b"bytes", np.array([b"a", b"b"])))
            case 2:
                file[name] = rng.choice((np.zeros((3, 3)), np.zeros((3, 3), np.int64), np.zeros(0, np.uint8)))
            case 3:
                count = rng.choice((5000, 50_000, 300_000))
                file.create_dataset(name, (count, count), "u1", chunks=(1024, 1024))
            case 4:
                file[name] = h5py.SoftLink(rng.choice(("/val", "/", "/nowhere", f"/{name}")))
            case 5:
                file[name] = h5py.ExternalLink("/dev/zero", "x")
            case 6:
                file.create_dataset(name, (4, 4), "u1", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])
            case 7:
                file[name] = np.dtype("f4")
            case _:
                pass

    while True:
        path.write_bytes(content)
        meta_path(path).write_text(json.dumps(meta))
        if rng.random() < 0.5:
            meta_path(path).write_text(odd_json(meta, rng))
        else:
            with h5py.File(path, "r+") as file:
                place = rng.choice(("val", "val/0", "val/0/adj", "val/0/nodes", "title", "format_version"))
                if place in file.attrs:
                    file.attrs[place] = rng.choice((np.arange(3), 2.5, "x", b"DeepNets-1M", np.array(["a"], "S")))
                else:
                    put(file, place)

        def read() -> None:
            with DeepNetsFile(path) as file:
                file["val"].graph(0)

        yield "deepnets", read


def damaged_idx(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    good, path = b"\0\0\x08\1" + struct.pack(">I", 100) + bytes(100), folder / "bad-idx1-ubyte"
    bomb = gzip.compress(good + bytes(1 << 26), 1)
    while True:
        content = rng.choice((good, gzip.compress(good)))
        path.write_bytes(bomb if rng.random() < 0.1 else rng.choice(BYTES)(content, rng))
        yield "idx", lambda: idx.read_idx(path, 1)


def damaged_cifar(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    path = folder / "data_batch_1"
    batch = {b"data": np.arange(3072 * 2, dtype=np.uint8).reshape(2, 3072), b"labels": [1, 2]}
    good = [pickle.dumps(batch, protocol) for protocol in (0, 2, 4)]
    hostile = [
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f}.",
        b"\x8b\xff\xff\xff\x7f.",
        b"(" * 10**6 + b"l" * 10**6 + b".",
        b"cos\nsystem\n(S'true'\ntR.",
    ]
    while True:
        path.write_bytes(rng.choice(hostile) if rng.random() < 0.2 else rng.choice(BYTES)(rng.choice(good), rng))
        yield "cifar", lambda: cifar_pickle.read_python_batch(path)


def damaged_records(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 1 << 14
        return bytes([number * 8 + 2, 0x80 | len(content) & 0x7F, len(content) >> 7]) + content

    def entry(name: bytes, value: bytes) -> bytes:
        return field(1, field(1, name) + field(2, value))

    features = entry(b"image", field(1, field(1, bytes(50)))) + entry(b"label", field(3, field(1, b"\5")))
    message = field(1, features + entry(b"file_name", field(1, field(1, b"a.jpg"))))
    record = struct.pack("<Q", len(message)) + bytes(4) + message + bytes(4)
    path = folder / "train.tfrecord"
    while True:
        path.write_bytes(rng.choice(BYTES)(record * 3, rng))
        yield "tfrecord", lambda: list(tfrecord.image_records(path))


def damaged_images(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    good = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        good.append(buffer.getvalue())
    for size in ((1, 6000), (6000, 1), (30_000, 30_000)):
        buffer = io.BytesIO()
        Image.new("1", size).save(buffer, "PNG")
        good.append(buffer.getvalue())
    source = image_folder.Files(folder, np.array([b"bad.png"]))
    while True:
        content = rng.choice(good)
        (folder / "bad.png").write_bytes(content if rng.random() < 0.2 else rng.choice(BYTES)(content, rng))
        yield "image", lambda: centre_view(64, decode_rgb(source, 0))


def damaged_lines(folder: pathlib.Path, rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    good, path = b"".join(b'{"step": %d, "loss": 0.5}\n' % step for step in range(20)), folder / "metrics.jsonl"
    while True:
        path.write_bytes(rng.choice(BYTES)(good, rng))
        yield "lines", lambda: list(json_lines.read(path, step=int, loss=float))


KINDS = (
    damaged_npz, damaged_safetensors, damaged_torch, damaged_architectures, damaged_deepnets, damaged_idx,
    damaged_cifar, damaged_records, damaged_images, damaged_lines,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40, help="damaged files of every kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=int, default=1024, help="MiB that may be added to what the process has")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, of damaged images
    sources = []
    for make in KINDS:
        folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
        sources.append(make(folder, random.Random(args.seed)))
        next(sources[-1])
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + (args.memory << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    refused = 0
    for source in sources:
        for number in range(args.rounds):
            kind, read = next(source)
            began = time.monotonic()
            try:
                read()
            except GHNError:
                refused += 1
            except BaseException as error:
                print(f"{kind} {number}: {type(error).__name__}: {str(error)[:200]}")
            if (seconds := time.monotonic() - began) > 5:
                print(f"{kind} {number}: took {seconds:.1f} s")
    print(f"refused {refused}")


if __name__ == "__main__":
    main()
