"""Published files: what is written is read back, the original's are repaired, and damage gives one clear error."""

import concurrent.futures.process
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import scripts
from reference import REFERENCE, needs_reference

from ghn_jax.checks import files
from ghn_jax.cli import make_deepnets as make_deepnets_command
from ghn_jax.cli.common import CommandError
from ghn_jax.cli.main import main
from ghn_jax.deepnets import sampler
from ghn_jax.deepnets.files import meta_file
from ghn_jax.deepnets.files import parts as parts_module
from ghn_jax.deepnets.files.meta_file import MetaError, MetaFile
from ghn_jax.deepnets.files.nodes import named_nodes, node_labels
from ghn_jax.deepnets.files.parts import (
    Part,
    PartError,
    assemble,
    part_folder,
    part_path,
    parts_of,
    read_part,
    write_part,
)
from ghn_jax.deepnets.files.reading import DeepNetsFile, DeepNetsFileError, meta_path
from ghn_jax.deepnets.files.writing import ExistingFileError, StoredNetwork, compressed, stored_network, write_file
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.networks import architecture as arch
from ghn_jax.networks.architecture import IMAGENET, to_json
from ghn_jax.networks.lowering import count_params, lower
from ghn_jax.networks.program_graph import build_graph

ROOT = scripts.ROOT
GOLDEN = ROOT / "tests" / "data" / "parity" / "deepnets1m_eval.hdf5"
COUNT = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file with a few networks of "train" and "wide"."""
    path = tmp_path_factory.mktemp("deepnets") / "deepnets1m_eval.hdf5"
    write_file(path, {s: [stored_network(s, i) for i in range(COUNT)] for s in ("train", "wide")})
    return path


@pytest.fixture
def copy(written, tmp_path):
    """A copy of that file that may be damaged."""
    for path in (written, meta_path(written)):
        shutil.copy(path, tmp_path)
    return tmp_path / written.name


def assert_equal_graphs(graph, expected):
    np.testing.assert_array_equal(graph.node_types, expected.node_types)
    np.testing.assert_array_equal(graph.node_shapes, expected.node_shapes)
    np.testing.assert_array_equal(graph.distances, expected.distances)
    assert graph.tensors == expected.tensors


def test_what_was_written_is_read_back(written):
    with DeepNetsFile(written) as file:
        assert file.splits == ("train", "wide")
        assert len(file["train"]) == len(file["wide"]) == COUNT
        for index in range(COUNT):
            drawn = sample_architecture("train", index)
            assert file["train"].architecture(index) == drawn
            assert_equal_graphs(file["train"].graph(index), build_graph(drawn))
            assert file["wide"].architecture(index) == sample_architecture("wide", index)
            assert file["wide"].entry(index)["C"] == 32
            entry = file["train"].entry(index)
            program = lower(drawn, sampler.SMALL_FORM)
            assert entry["num_nodes"] == len(file["train"].arrays(index).adj)
            assert entry["num_params"] == {
                "cifar10": program.num_params_with_unused,
                "imagenet": lower(drawn, sampler.LARGE_FORM).num_params_with_unused,
            }
        large = file["wide"].architecture(0, large_images=True)
        assert large == sample_architecture("wide", 0, large_images=True)
        assert_equal_graphs(file["wide"].graph(0, IMAGENET), build_graph(large, IMAGENET))


def test_the_original_reads_the_file(written):
    """Its reader, in a few lines: ids by the tables of the meta file, rows of `nodes` paired with rows of `adj`."""
    meta = json.loads(meta_path(written).read_text())["train"]
    assert list(meta) == ["nets", "meta"] and list(meta["meta"]) == ["primitives_ext", "unique_op_names"]
    with h5py.File(written) as file:
        assert file.attrs["title"] == "DeepNets-1M"
        for index, entry in enumerate(meta["nets"]):
            adj, nodes = (file["train"][str(index)][name][()] for name in ("adj", "nodes"))
            assert (adj.dtype, nodes.dtype) == (np.uint8, np.uint16)
            assert file[f"train/{index}/adj"].compression == file[f"train/{index}/nodes"].compression == "gzip"
            assert not np.diag(adj).any()
            graph = build_graph(arch.from_json(entry))
            np.testing.assert_array_equal(adj, graph.distances)
            for label, (primitive, cell, operation) in zip(node_labels(graph), nodes.tolist(), strict=True):
                node_type, name = label.split()
                assert meta["meta"]["primitives_ext"][str(primitive)] == node_type
                stored = meta["meta"]["unique_op_names"][str(operation)]
                assert name in (stored, f"cells.{cell}.{stored}")
                assert 0 <= cell < entry["n_cells"]
            last = [meta["meta"]["unique_op_names"][str(n[2])] for n in nodes[-2:]]
            assert [name.rsplit(".")[-1] for name in last] == ["weight", "bias"] and "classifier" in last[0]


def test_nodes_without_parameters_belong_to_the_cell_last_met():
    architecture = sample_architecture("train", 3)
    nodes = named_nodes(build_graph(architecture), architecture.n_cells)
    assert nodes[0] == ("input", 0, "input")
    assert nodes[-1].cell == architecture.n_cells - 1 and nodes[-1].operation.startswith("classifier")
    before = nodes[0]
    for node in nodes[1:]:
        if node.operation == node.node_type:
            assert node.cell == before.cell
        before = node


def test_counts_without_instructions():
    for index in range(150):
        architecture, program = sampler.sample_program("train", index)
        assert count_params(architecture, sampler.SMALL_FORM) == program.num_params_with_unused
    for name in arch.NAMED_ARCHITECTURES:
        for task in (arch.CIFAR10, IMAGENET):
            counted = lower(arch.named(name), task).num_params_with_unused
            assert count_params(arch.named(name), task) == counted


def all_contents(path):
    with h5py.File(path) as file:
        arrays = {}
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays, json.loads(meta_path(path).read_text())


def rewrite(source, path):
    """Writes what a file holds into another, arrays and entries as they are stored."""

    def networks(split):
        stored = source[split]
        for index in range(len(stored)):
            adj, _ = stored.arrays(index)
            yield StoredNetwork(stored.entry(index), compressed(adj), stored.named_nodes(index))

    names = {split: (source.meta.primitives(split), source.meta.operations(split)) for split in source.splits}
    write_file(path, {split: networks(split) for split in source.splits}, names=names)


@pytest.mark.parametrize("source", [GOLDEN, pytest.param(REFERENCE / GOLDEN.name, marks=needs_reference)])
def test_the_originals_file_rewritten_is_the_same(source, tmp_path):
    path = tmp_path / "copy.hdf5"
    with DeepNetsFile(source) as file:
        rewrite(file, path)
    (stored, meta), (expected, expected_meta) = all_contents(path), all_contents(source)
    assert meta == expected_meta
    assert stored.keys() == expected.keys()
    for name, values in expected.items():
        assert stored[name].dtype == values.dtype
        np.testing.assert_array_equal(stored[name], values)


@pytest.mark.parametrize("source", [GOLDEN, pytest.param(REFERENCE / GOLDEN.name, marks=needs_reference)])
def test_true_graphs_of_the_originals_file(source):
    """The distances as stored, and the nodes as the network has them, which is not how they are stored."""
    shuffled = 0
    with DeepNetsFile(source) as file:
        for split in file.splits:
            for index in range(len(file[split])):
                graph = file[split].graph(index)
                np.testing.assert_array_equal(graph.distances, file[split].arrays(index).adj)
                stored = [node.node_type for node in file[split].named_nodes(index)]
                true = [label.split()[0] for label in node_labels(graph)]
                assert sorted(stored) == sorted(true)
                shuffled += stored != true
                for node, node_type in enumerate(true):
                    if node_type == "bias":  # a bias follows its weight; in stored order many do not
                        (before,) = np.flatnonzero(graph.distances[:, node] == 1)
                        assert true[before] in ("conv", "conv_1x1")
    assert shuffled > 0


def _names(file):
    return [file["train"].architecture(index) for index in range(COUNT)]


def test_several_processes_read(written):
    file = DeepNetsFile(written)
    expected = [file["train"].arrays(index) for index in range(COUNT)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        for found, arrays in zip(pool.map(file["train"].arrays, range(COUNT)), expected, strict=True):
            np.testing.assert_array_equal(found.adj, arrays.adj)
            np.testing.assert_array_equal(found.nodes, arrays.nodes)


def test_a_process_opens_the_file_for_itself(written):
    file = DeepNetsFile(written)
    file.open()
    again = pickle.loads(pickle.dumps(file))
    assert _names(again) == _names(file)
    file._process += 1  # as in a forked process, which must not use the handle of its parent
    handle = file._file
    assert file.open() is not handle
    np.testing.assert_array_equal(file["train"].arrays(1).adj, again["train"].arrays(1).adj)


def damage_hdf5(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def damage_meta(path):
    text = meta_path(path).read_text()
    meta_path(path).write_text(text[: len(text) // 2])


def retitle(path):
    with h5py.File(path, "r+") as file:
        file.attrs["title"] = "Fashion"


def raise_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 7


def drop_split(path):
    with h5py.File(path, "r+") as file:
        del file["wide"]


def replace_meta(text):
    return lambda path: meta_path(path).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_hdf5, r"eval\.hdf5 cannot be read: .*truncated"),
        (damage_meta, r"eval_meta\.json is no JSON, or truncated"),
        (retitle, r"has the title 'Fashion', expected 'DeepNets-1M'"),
        (raise_version, r"has format version 7, expected 1"),
        (drop_split, r"has no split 'wide', but .*_meta\.json has"),
        (lambda path: path.unlink(), r"eval\.hdf5 cannot be read"),
        (lambda path: meta_path(path).unlink(), r"eval_meta\.json cannot be read"),
        (lambda path: path.write_bytes(b"PK"), r"eval\.hdf5 cannot be read"),
        (replace_meta("[1, 2]"), r"holds no splits"),
        (replace_meta(""), r"is no JSON, or truncated"),
        (replace_meta('{"train": {"nets": [{}]}}'), r"split 'train' is not as in DeepNets-1M"),
        (replace_meta('{"train": 3}'), r"split 'train' is not as in DeepNets-1M"),
    ],
)
def test_a_damaged_or_foreign_file_gives_one_error(copy, damage, message):
    damage(copy)
    with pytest.raises(DeepNetsFileError, match=message):
        DeepNetsFile(copy)


@pytest.mark.parametrize(
    ("dataset", "index", "value", "message"),
    [
        ("adj", (0, 5), 99, r"train/2: the distance|train/2: distances from"),
        ("nodes", (4, 0), 777, r"train/2: .*_meta\.json does not name the ids of node 4"),
        ("nodes", (4, 2), 0, r"train/2: nodes"),
    ],
)
def test_a_graph_that_is_not_the_architectures(copy, dataset, index, value, message):
    with h5py.File(copy, "r+") as file:
        file[f"train/2/{dataset}"][index] = value
    with DeepNetsFile(copy) as file:
        with pytest.raises(DeepNetsFileError, match=message):
            file["train"].graph(2)
        assert file["train"].graph(1).num_nodes == file["train"].entry(1)["num_nodes"]


def test_missing_graphs_splits_and_indices(copy):
    with h5py.File(copy, "r+") as file:
        del file["train/1"]
    with DeepNetsFile(copy) as file:
        with pytest.raises(DeepNetsFileError, match=r"train/1 cannot be read"):
            file["train"].arrays(1)
        with pytest.raises(DeepNetsFileError, match=r"no split 'val'; there are train, wide"):
            file["val"]
        with pytest.raises(DeepNetsFileError, match=rf"index {COUNT}: 'train' of .* has 0 to {COUNT - 1}"):
            file["train"].entry(COUNT)


def test_meta_files_in_blocks(written, monkeypatch):
    """Entries that cross the blocks in which a file is scanned."""
    expected = json.loads(meta_path(written).read_text())
    for block in (1, 7, 64):
        monkeypatch.setattr("ghn_jax.deepnets.files.meta_file._BLOCK", block)
        meta = MetaFile(meta_path(written))
        for split in meta.splits:
            assert [meta.entry(split, i) for i in range(meta.size(split))] == expected[split]["nets"]
            assert meta.primitives(split) == {int(k): v for k, v in expected[split]["meta"]["primitives_ext"].items()}


def test_an_empty_split(tmp_path):
    path = tmp_path / "meta.json"
    path.write_text('{"train": {"nets": [], "meta": {"primitives_ext": {}, "unique_op_names": {}}}}')
    assert MetaFile(path).size("train") == 0
    path.write_text('{"train": {"nets": [3], "meta": {"primitives_ext": {}, "unique_op_names": {}}}}')
    with pytest.raises(MetaError, match="an entry of 'nets' is no object"):
        MetaFile(path)


def test_nothing_is_overwritten(written):
    before = written.read_bytes()
    with pytest.raises(ExistingFileError, match=r"eval\.hdf5 exists and is never overwritten"):
        write_file(written, {"train": []})
    assert written.read_bytes() == before


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def networks():
        yield stored_network("train", 0)
        raise RuntimeError("disk full")

    with pytest.raises(files.FileError, match="disk full"):
        write_file(tmp_path / "x.hdf5", {"train": networks()})
    assert list(tmp_path.iterdir()) == []


def test_parts_cover_a_split():
    parts = parts_of("train", 2500)
    assert [(p.first, p.stop) for p in parts] == [(0, 1000), (1000, 2000), (2000, 2500)]
    with pytest.raises(ValueError, match="num=501: split 'val' has 1 to 500"):
        parts_of("val", 501)


def test_parts_become_the_file_that_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(parts_module._PART_SIZES, "train", 2)
    path = tmp_path / "deepnets1m_train.hdf5"
    parts = parts_of("train", 5)
    part_folder(path).mkdir()
    for part in reversed(parts):
        write_part(part_folder(path), part)
    write_file(tmp_path / "at_once.hdf5", {"train": [stored_network("train", i) for i in range(5)]})
    meta_path(path).write_text("of somebody else")
    with pytest.raises(ExistingFileError, match="deepnets1m_train_meta.json exists"):
        assemble(path, {"train": parts}, lambda part: None)
    assert meta_path(path).read_text() == "of somebody else" and not path.exists()
    # As left by an assembly that ended between two renamings.
    meta_path(path).write_bytes(meta_path(tmp_path / "at_once.hdf5").read_bytes())
    (part_folder(path) / "notes.txt").write_text("of somebody else, too")
    copied = []
    assemble(path, {"train": parts}, copied.append)
    assert copied == parts
    assert [p.name for p in part_folder(path).iterdir()] == ["notes.txt"]
    assert sorted(p.name for p in tmp_path.glob("*train*")) == [
        "deepnets1m_train.hdf5", "deepnets1m_train.parts", "deepnets1m_train_meta.json"
    ]  # fmt: skip
    (stored, meta), (expected, expected_meta) = all_contents(path), all_contents(tmp_path / "at_once.hdf5")
    assert meta == expected_meta
    assert stored.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(stored[name], values)
    with h5py.File(path) as file:
        assert file.attrs["generator_version"] == sampler.GENERATOR_VERSION


def test_a_damaged_part_is_named(tmp_path):
    part = Part("train", 0, 2)
    write_part(tmp_path, part)
    damage_hdf5(part_path(tmp_path, part))
    with pytest.raises(PartError, match=r"train_0000000_0000002\.npz is damaged"):
        list(read_part(tmp_path, part))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("types", np.array(["conv"])),
        ("adj_sizes", np.full(2, np.nan)),
        ("num_nodes", np.zeros(0, np.int64)),
        ("nodes", np.zeros((0, 3), np.uint16)),
        ("adj", np.zeros(0, np.uint8)),
        ("entries", np.frombuffer(b"[1, 2]", np.uint8)),
    ],
)
def test_foreign_arrays_in_a_part(name, array, tmp_path):
    part = Part("train", 0, 2)
    write_part(tmp_path, part)
    with np.load(path := part_path(tmp_path, part)) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, name: array})
    with pytest.raises(PartError, match=r"train_0000000_0000002\.npz is damaged"):
        list(read_part(tmp_path, part))


def test_one_process_makes_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(make_deepnets_command, "_collect_rarely", lambda: None)  # of the process of the tests
    words = ["deepnets", "make", "--split=val", "--num=1", f"--out={tmp_path}", "--workers=1"]
    folder = part_folder(tmp_path / "deepnets1m_eval.hdf5")
    folder.mkdir()
    with (
        files.locked(folder / parts_module.PARTS_LOCK),
        pytest.raises(SystemExit, match=f"held by process {os.getpid()} on"),
    ):
        main(words)
    write_part(folder, Part("val", 0, 1))
    main(words)
    assert sorted(os.listdir(tmp_path)) == ["deepnets1m_eval.hdf5", "deepnets1m_eval_meta.json"]


def make_deepnets(*arguments):
    command = [sys.executable, str(ROOT / "experiments" / "make_deepnets.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    arguments = ["--split=bnfree", "--num=60", f"--out={tmp_path}", "--workers=2"]
    path = tmp_path / "deepnets1m_eval.hdf5"
    first = make_deepnets(*arguments)
    deadline = time.monotonic() + 120
    while not list(part_folder(path).glob("*.npz")):
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not path.exists()
    second = make_deepnets(*arguments)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert re.search(r"\d0 of 60 architectures are there from an earlier run", output)
    with DeepNetsFile(path) as file:
        assert [file["bnfree"].architecture(i) for i in (0, 33, 59)] == [
            sample_architecture("bnfree", i) for i in (0, 33, 59)
        ]
        assert len(file["bnfree"]) == 60
    assert {p.name for p in tmp_path.iterdir()} == {path.name, meta_path(path).name}
    third = make_deepnets(*arguments)
    output, _ = third.communicate(timeout=120)
    assert third.returncode == 1 and "exists and is never overwritten" in output


def test_entries_make_the_same_architectures(written):
    entry = DeepNetsFile(written)["train"].entry(0)
    assert arch.from_json(entry) == sample_architecture("train", 0)
    assert {**to_json(sample_architecture("train", 0)), "kind": "cells"} == {
        "kind": "cells",
        **{name: value for name, value in entry.items() if name not in ("num_nodes", "num_params")},
    }


def test_an_entry_that_is_no_network_of_cells(tmp_path):
    path = tmp_path / "eval.hdf5"
    write_file(path, {"train": [stored_network("train", 0)]})
    meta = json.loads(meta_path(path).read_text())
    meta["train"]["nets"][0] = arch.to_json(arch.named("resnet50"))
    meta_path(path).write_text(json.dumps(meta))
    with DeepNetsFile(path) as file, pytest.raises(DeepNetsFileError, match="entry 0 of 'train' is a ResNet: expected"):
        file["train"].architecture(0)


def test_meta_files_of_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(meta_file, "_MOST_ENTRIES", 50)
    (tmp_path / "meta.json").write_text('{"train": {"nets": [' + ",".join(["{}"] * 51) + "]}}")
    with pytest.raises(MetaError, match="meta.json is no JSON, or truncated: 51 architectures, expected at most 50"):
        MetaFile(tmp_path / "meta.json")


def test_what_hdf5_makes_of_a_full_disk(tmp_path):
    def networks():
        yield stored_network("val", 0)
        raise RuntimeError("Can't decrement id ref count (unable to extend file properly)")

    with pytest.raises(files.FileError, match=r"a\.hdf5 cannot be written: Can't decrement id"):
        write_file(tmp_path / "a.hdf5", {"val": networks()})
    assert not list(tmp_path.iterdir())


def test_a_process_that_was_killed(tmp_path, monkeypatch):
    class Pool:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            future = concurrent.futures.Future()
            future.set_exception(concurrent.futures.process.BrokenProcessPool("terminated abruptly"))
            return future

        def shutdown(self, cancel_futures):
            assert cancel_futures

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    with pytest.raises(CommandError, match="a process was killed, .* the same command goes on"):
        make_deepnets_command.make_parts(tmp_path / "a.hdf5", parts_of("val", 1), 1)
