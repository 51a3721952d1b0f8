"""The hypernetwork in the package, and files like it."""

import dataclasses
import io
import json
import os
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_files import random_ghn

from ghn_jax import build_graph, named, predict_params
from ghn_jax.ghn.config import HypernetConfig, ghn2
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import pretrained
from ghn_jax.weights.errors import CheckpointError

SMALL = HypernetConfig(max_shape=(8, 8, 5, 5), weight_norm=True, ve=True, layernorm=True, hid=8)


def test_round_trip(tmp_path):
    ghn = random_ghn(SMALL)
    pretrained.write(tmp_path / "small.npz", ghn, {"steps": 3})
    read, about = pretrained.read(tmp_path / "small.npz")
    assert read.config == SMALL and about == {"steps": 3}
    assert jax.tree.structure(read.params) == jax.tree.structure(ghn.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), read.params, ghn.params)
    assert [path.name for path in tmp_path.iterdir()] == ["small.npz"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_precision(tmp_path, dtype):
    ghn = random_ghn(SMALL)
    pretrained.write(tmp_path / "small.npz", ghn, {}, dtype)
    read, _ = pretrained.read(tmp_path / "small.npz")
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, dtype)), read.params, ghn.params)
    assert pretrained.read_about(tmp_path / "small.npz") == (SMALL, {})


def test_the_package_files_are_whole():
    """`load` doesn't compare the shapes of the default file with its configuration, so this does."""
    for path in pretrained.paths().values():
        config, provenance = pretrained.read_about(path)
        copy = pretrained.read(str(path))[0] if path != pretrained.DEFAULT else pretrained.load()
        expected = jax.eval_shape(lambda config=config: GHN.init(config, seed=0).params)
        assert jax.tree.map(np.shape, copy.params) == jax.tree.map(np.shape, expected)
        assert {"dataset", "steps", "accuracy", "licence"} <= set(provenance)


def with_value(ghn, value):
    bias = np.array(ghn.params["norm"]["bias"])
    bias[2] = value
    return GHN(ghn.config, ghn.params | {"norm": ghn.params["norm"] | {"bias": bias}})


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e5, 65520.0])
def test_what_half_precision_cannot_hold_is_not_written(tmp_path, value):
    bad = with_value(random_ghn(SMALL), value)
    with pytest.raises(CheckpointError, match="array norm/bias has a value of .*, which float16 cannot hold"):
        pretrained.write(tmp_path / "bad.npz", bad, {})
    assert not list(tmp_path.iterdir())
    if np.isfinite(value):
        pretrained.write(tmp_path / "exact.npz", bad, {}, np.float32)
        assert pretrained.read(tmp_path / "exact.npz")[0].params["norm"]["bias"][2] == np.float32(value)


@pytest.mark.parametrize(
    ("name", "provenance", "match"),
    [
        ("a.npz", {"ghn": 1}, "a provenance has an entry 'ghn'"),
        ("a.npz", {"accuracy": np.nan}, "JSON cannot hold"),
        ("a.npz", {"path": object()}, "JSON cannot hold"),
        ("a.pt", {}, "expected a name ending in .npz"),
    ],
)
def test_bad_arguments_of_write(tmp_path, name, provenance, match):
    with pytest.raises(CheckpointError, match=match):
        pretrained.write(tmp_path / name, random_ghn(SMALL), provenance)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "small.npz"
    pretrained.write(path, random_ghn(SMALL), {"steps": 1})

    def full(file, *_):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pretrained, "write_arrays", full)
    with pytest.raises(OSError, match="no space left"):
        pretrained.write(path, random_ghn(SMALL, seed=1), {"steps": 2})
    assert pretrained.read_about(path)[1] == {"steps": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["small.npz"]


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """The entries of a sound file."""
    path = tmp_path_factory.mktemp("sound") / "small.npz"
    pretrained.write(path, random_ghn(SMALL), {"steps": 3})
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(values) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values), allow_pickle=True)
    return buffer.getvalue()


def about(**changes) -> bytes:
    fields = {"ghn": dataclasses.asdict(SMALL) | changes.pop("ghn", {})} | changes
    return npy(json.dumps(fields))


def header(text: str) -> bytes:
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin1")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("marker",)


HALF = np.float16
BAD_ENTRIES = {
    "missing array": ({"norm/bias.npy": None}, "has no array norm/bias"),
    "surplus array": ({"norm/offset.npy": npy(np.zeros(3, HALF))}, "has a surplus array norm/offset"),
    "another name": (
        {"norm/bias.npy": None, "norm/bias": npy(np.zeros(8, HALF))},
        "has a surplus array norm/bias: exp",
    ),
    "two of a name": ({"norm/bias": npy(np.zeros(8, HALF))}, "has a surplus array norm/bias: expected names ending"),
    "surplus file": ({"payload.py": b"1"}, "has a surplus array payload.py"),
    "shape": ({"norm/bias.npy": npy(np.zeros(7, HALF))}, r"array norm/bias has shape \(7,\), expected \(8,\)"),
    "rank": ({"norm/bias.npy": npy(np.zeros((8, 1), HALF))}, r"array norm/bias has shape \(8, 1\), expected \(8,\)"),
    "integers": ({"norm/bias.npy": npy(np.zeros(8, np.int16))}, "array norm/bias is of type int16, expected float16"),
    "float64": ({"norm/bias.npy": npy(np.zeros(8))}, "array norm/bias is of type float64, expected float16"),
    "text": ({"norm/bias.npy": npy(["a"] * 8)}, "array norm/bias is of type <U1"),
    "pickle": ({"norm/bias.npy": npy(np.array([Payload()] * 8, object))}, "array norm/bias is of type object"),
    "not a number": ({"norm/bias.npy": npy(np.full(8, np.nan, HALF))}, "array norm/bias has values that are not fin"),
    "infinite": ({"norm/bias.npy": npy(np.full(8, np.inf, HALF))}, "array norm/bias has values that are not finite"),
    "no array": ({"norm/bias.npy": b"text"}, "array norm/bias is damaged"),
    "empty": ({"norm/bias.npy": b""}, "array norm/bias is damaged"),
    "truncated": ({"norm/bias.npy": npy(np.zeros(8, HALF))[:-1]}, "array norm/bias is damaged"),
    "longer": ({"norm/bias.npy": npy(np.zeros(8, HALF)) + b"ab"}, "array norm/bias is damaged"),
    "much longer": ({"norm/bias.npy": bytes(10**7)}, "'norm/bias.npy' has 10,000,000 bytes, expected at most 1,056"),
    "huge": (
        {"norm/bias.npy": header("{'descr': '<f2', 'fortran_order': False, 'shape': (4611686018427387904,), }")},
        "array norm/bias has shape",
    ),
    "header": ({"norm/bias.npy": header("{'descr': '<f2', 'fortran_order': False, 'shape': (8,")}, "is damaged"),
    "escape": ({"norm/bias.npy": header("{'descr': '\\d', 'fortran_order': False, 'shape': (8,)}")}, "is damaged"),
    "no type": (
        {"norm/bias.npy": header("{'descr': '<f99999999', 'fortran_order': False, 'shape': (8,), }")},
        "is damaged",
    ),
    "deep header": ({"norm/bias.npy": header("(" * 110)}, "is damaged"),
    "no provenance": ({"__about__.npy": None}, "it has no entry __about__"),
    "provenance of numbers": ({"__about__.npy": npy(3)}, "expected a text"),
    "provenance of texts": ({"__about__.npy": npy(["{}", "{}"])}, "expected a text"),
    "pickled provenance": ({"__about__.npy": npy(Payload())}, "expected a text"),
    "no JSON": ({"__about__.npy": npy("{")}, "__about__ is damaged"),
    "no characters": (
        {"__about__.npy": npy("{").replace(b"{\0\0\0", b"\xff" * 4)},
        "__about__ is damaged: 'utf-32-le'",
    ),
    "twice": ({"__about__.npy": npy('{"ghn": {}, "ghn": {}}')}, "__about__ is damaged: it has 'ghn' twice"),
    "other JSON": ({"__about__.npy": npy("[1]")}, "__about__ is damaged"),
    "deep JSON": ({"__about__.npy": npy("[" * 10**5)}, "__about__ is damaged"),
    "no configuration": ({"__about__.npy": npy("{}")}, "__about__ is damaged: 'ghn'"),
    "unknown kind": (
        {"__about__.npy": about(ghn={"hypernet": "x"})},
        "hypernet='x': expected 'gatedgnn' or 'graphormer' or 'mlp'",
    ),
    "unknown field": ({"__about__.npy": about(ghn={"depth": 8})}, "no field 'depth'"),
    "another size": ({"__about__.npy": about(ghn={"hid": 16})}, "has shape .*, expected"),
    "enormous": ({"__about__.npy": about(ghn={"max_shape": (8, 8, 10**9, 10**9)})}, "max_shape=.*: expected 4 entries"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_named(entries, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    changes, match = BAD_ENTRIES[case]
    with zipfile.ZipFile("bad.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (entries | changes).items():
            if content is not None:
                archive.writestr(name, content)
    with pytest.raises(CheckpointError, match=f"bad.npz.*{match}"):
        pretrained.read("bad.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def test_files_of_another_kind(tmp_path):
    with pytest.raises(CheckpointError, match="no file at .*nothing.npz"):
        pretrained.read(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(CheckpointError, match="text.npz is damaged, or no file of weights"):
        pretrained.read(tmp_path / "text.npz")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(CheckpointError, match="holds no hypernetwork: it has no entry __about__"):
        pretrained.read(tmp_path / "foreign.npz")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_or_sound(entries, tmp_path, data):
    """Random changes of bytes in an entry or the whole file."""
    buffer = io.BytesIO()
    name = data.draw(st.sampled_from([None, "__about__.npy", "norm/bias.npy"]))
    damaged = bytearray(entries[name] if name else b"")
    with zipfile.ZipFile(buffer, "w") as archive:
        for place, value in data.draw(changed_bytes) if name else ():
            damaged[place % len(damaged)] = value
        for entry, content in entries.items():
            archive.writestr(entry, bytes(damaged) if entry == name else content)
    whole = bytearray(buffer.getvalue())
    for place, value in () if name else data.draw(changed_bytes):
        whole[place % len(whole)] = value
    (tmp_path / "damaged.npz").write_bytes(whole)
    try:
        ghn, _ = pretrained.read(tmp_path / "damaged.npz")
    except CheckpointError:
        return
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ghn.params))
    expected = jax.eval_shape(lambda: GHN.init(ghn.config, seed=0).params)
    assert jax.tree.map(np.shape, ghn.params) == jax.tree.map(np.shape, expected)


changed_bytes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


def test_accuracies():
    nested = {"what": "top-1", "test": {"predicted": {"mean": 0.6, "best": 0.7}, "networks": 500}, "note": None}
    assert pretrained.measured_accuracies({"accuracy": nested}) == {
        "test": {"networks": 500},
        "test, predicted": {"mean": 0.6, "best": 0.7},
    }
    assert pretrained.measured_accuracies({}) == pretrained.measured_accuracies({"accuracy": 0.5}) == {}


def test_default_is_the_one_in_the_package():
    ghn = pretrained.load()
    assert ghn.config == ghn2()
    about = pretrained.about()
    assert about["dataset"] == "fashion_mnist" and about["steps"] > 1000
    graph = build_graph(named("vit"))
    by_default, by_name = predict_params(graph), predict_params(graph, ghn)
    assert list(by_default) == [tensor.name for tensor in graph.tensors]
    for tensor in graph.tensors:
        assert by_default[tensor.name].shape == tensor.shape
        np.testing.assert_array_equal(by_default[tensor.name], by_name[tensor.name])
        assert np.isfinite(by_default[tensor.name]).all()


def test_what_a_file_says_of_itself_costs_nothing(tmp_path):
    path = tmp_path / "ghn.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__about__.npy", about())
        archive.writestr("x.npy", bytes(1 << 25))
    with pytest.raises(CheckpointError, match=r"ghn.npz has .* bytes, which claim to unpack to 33,5"):
        pretrained.read(path)
    fields = dataclasses.asdict(HypernetConfig(hypernet="graphormer", decoder="conv3", layers=256))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__about__.npy", npy(np.array(json.dumps({"ghn": fields}))))
    with pytest.raises(CheckpointError, match=r"ghn.npz has 1 arrays of .* bytes, too few for HypernetConfig"):
        pretrained.read(path)
