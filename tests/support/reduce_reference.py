"""Copies part of a folder of reference figures; chosen networks are numbered anew in every split.

    python tests/reduce_reference.py ../shared/reference tests/data/parity

makes the figures in `tests/data/parity`.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence

import h5py
import numpy as np

GOLDEN_NETWORKS = {"val": (30, 33, 42, 52), "deep": (4,), "dense": (0,), "bnfree": (9,)}
GOLDEN_GRAPHS = ("graph/cifar10/resnet50",)


def reduce_reference(
    source: pathlib.Path,
    folder: pathlib.Path,
    networks: Mapping[str, Sequence[int]],
    graphs: Sequence[str],
    hypernetworks: Sequence[str] = (),
    datasets: Sequence[str] = ("cifar10", "imagenet"),
) -> None:
    """Writes the figures of `networks` (numbers by split), predefined `graphs` and `hypernetworks` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    renamed = {
        f"{split}/{number}": f"{split}/{new}"
        for split, numbers in networks.items()
        for new, number in enumerate(numbers)
    }
    meta = json.loads((source / "deepnets1m_eval_meta.json").read_text())
    meta = {
        split: {"nets": [meta[split]["nets"][i] for i in numbers], "meta": meta[split]["meta"]}
        for split, numbers in networks.items()
    }
    _write(folder / "deepnets1m_eval_meta.json", meta)
    with (
        h5py.File(source / "deepnets1m_eval.hdf5") as file,
        h5py.File(folder / "deepnets1m_eval.hdf5", "w") as reduced,
    ):
        reduced.attrs["title"] = file.attrs["title"]
        for old, new in renamed.items():
            for name, values in file[old].items():
                reduced.create_dataset(f"{new}/{name}", data=values[:], compression="gzip", shuffle=True)
    stored = json.loads((source / "networks.json").read_text())
    wanted = {f"{old}/{dataset}": f"{new}/{dataset}" for old, new in renamed.items() for dataset in datasets}
    _write(folder / "networks.json", {new: stored[old] for old, new in wanted.items() if old in stored})
    reduce_figures(source, folder, renamed, graphs, hypernetworks)


def reduce_figures(
    source: pathlib.Path,
    folder: pathlib.Path,
    renamed: Mapping[str, str],
    graphs: Sequence[str],
    hypernetworks: Sequence[str],
) -> None:
    """Writes what `hypernetworks` predict for some networks, and predefined `graphs`, into `folder`."""
    stored = json.loads((source / "predictions.json").read_text())
    wanted = {f"{ghn}/{old}": f"{ghn}/{new}" for ghn in hypernetworks for old, new in renamed.items()}
    wanted |= {name: name for name in graphs}
    _write(folder / "predictions.json", {new: stored[old] for old, new in wanted.items() if old in stored})
    for ghn in hypernetworks:
        shutil.copyfile(source / f"{ghn}.npz", folder / f"{ghn}.npz")
        with np.load(source / f"{ghn}_embeddings.npz") as archive:
            embeddings = {
                new.replace("/", "__"): archive[old.replace("/", "__")]
                for old, new in renamed.items()
                if old.replace("/", "__") in archive.files
            }
        np.savez(folder / f"{ghn}_embeddings.npz", **embeddings)


def _write(path: pathlib.Path, contents: object) -> None:
    path.write_text(json.dumps(contents, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    reduce_reference(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), GOLDEN_NETWORKS, GOLDEN_GRAPHS)
