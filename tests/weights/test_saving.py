"""Parameters leave the package in every format, and come back as they were."""

import json
import os
import resource
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from torch_files import archived, random_ghn, state_dict

import ghn_jax
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.weights import checkpoint, safetensors_file
from ghn_jax.weights.errors import CheckpointError

GRAPH = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1, 1), width=4))
NAMES = ["a.safetensors", "a.npz", "a"]


def random_params(graph, seed=0):
    rng = np.random.default_rng(seed)
    return {tensor.name: jnp.asarray(rng.standard_normal(tensor.shape), jnp.float32) for tensor in graph.tensors}


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_an_architecture_come_back(name, tmp_path):
    params = random_params(GRAPH)
    path = ghn_jax.save(params, tmp_path / "new" / name, graph=GRAPH)
    same(ghn_jax.load_params(path, GRAPH), params)
    assert list(ghn_jax.load_params(path, GRAPH)) == [tensor.name for tensor in GRAPH.tensors]
    assert set(ghn_jax.load_params(path)) == set(params)
    assert [entry.name for entry in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_a_traced_model_come_back_in_its_structure(name, tmp_path):
    model = nn.Sequential([nn.Conv(4, (3, 3), param_dtype=jnp.bfloat16), nn.relu, nn.Dense(3)])
    images = jnp.ones((1, 8, 8, 3))
    params = model.init(jax.random.key(0), images)["params"]
    graph = ghn_jax.trace(model, images)
    path = ghn_jax.save(params, tmp_path / name, graph=graph)
    same(ghn_jax.load_params(path, graph), params)
    assert ghn_jax.load_params(path)["layers_2/kernel"].shape == (4, 3)
    assert set(ghn_jax.load_params(ghn_jax.save(params, tmp_path / f"without-{name}"))) == set(
        ghn_jax.load_params(path)
    )


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])
def test_pytorch_has_output_channels_first(name, tmp_path):
    params = random_params(GRAPH)
    path = ghn_jax.save(params, tmp_path / name, layout="torch", graph=GRAPH)
    stored = safetensors_file.read(path)[0] if name.endswith("safetensors") else dict(np.load(path))
    assert stored["conv1.weight"].shape == (4, 3, 3, 3)
    assert stored["conv1.weight"][1, 2, 0, 1] == params["conv1.weight"][0, 1, 2, 1]
    assert stored["fc.weight"][3, 5] == params["fc.weight"][5, 3]
    same(ghn_jax.load_params(path, GRAPH, layout="torch"), params)


def test_a_state_dictionary_of_pytorch_is_read_without_its_statistics(tmp_path):
    params = random_params(GRAPH)
    torch = {tensor.name: np.asarray(params[tensor.name]) for tensor in GRAPH.tensors}
    torch = {name: v.transpose(3, 2, 0, 1) if v.ndim == 4 else v.T for name, v in torch.items()}
    torch["bn1.running_mean"] = np.zeros(4, np.float32)
    (tmp_path / "a.pt").write_bytes(archived(*state_dict(torch)))
    same(ghn_jax.load_params(tmp_path / "a.pt", GRAPH, layout="torch"), params)


NUMBERS = st.sampled_from([np.float32, np.float16, np.int32, np.bool_, np.uint8])


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        NUMBERS.flatmap(
            lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=3))
        ),
        max_size=4,
    )
)
def test_any_arrays_come_back_from_safetensors(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("any") / "a.safetensors"
    safetensors_file.write(path, arrays, {"a": "b"})
    found, metadata = safetensors_file.read(path)
    assert metadata == {"a": "b"} and list(found) == list(arrays)
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        np.testing.assert_array_equal(
            found[name].view(np.uint8) if values.ndim else found[name], values.view(np.uint8) if values.ndim else values
        )


def test_the_library_reads_what_we_write_and_we_what_it_writes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    params = {name: np.asarray(values) for name, values in random_params(GRAPH).items()}
    same(library.load_file(ghn_jax.save(params, tmp_path / "a.safetensors")), params)
    library.save_file(params, tmp_path / "b.safetensors")
    same(jax.tree.map(np.asarray, ghn_jax.load_params(tmp_path / "b.safetensors", GRAPH)), params)


def test_a_hypernetwork_is_one_file_of_safetensors_too(tmp_path):
    config = HypernetConfig(max_shape=(8, 8, 3, 3), num_classes=5, hid=8, hypernet="mlp", decoder="conv")
    ghn = random_ghn(config)
    path = ghn_jax.save(ghn, tmp_path / "g.safetensors", provenance={"dataset": "digits", "steps": 3})
    again = ghn_jax.load(path)
    assert again.config == config
    same(jax.tree.map(jnp.asarray, again.params), jax.tree.map(jnp.asarray, ghn.params))
    assert ghn_jax.provenance(path) == {"dataset": "digits", "steps": 3}
    other = ghn_jax.save(random_params(GRAPH), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="a.safetensors holds no hypernetwork"):
        ghn_jax.load(other)
    arrays, metadata = safetensors_file.read(path)
    arrays.pop(next(iter(arrays)))
    safetensors_file.write(tmp_path / "h.safetensors", arrays, metadata)
    with pytest.raises(CheckpointError, match="has no array"):
        ghn_jax.load(tmp_path / "h.safetensors")


def test_nothing_is_replaced_unasked(tmp_path):
    params, others = random_params(GRAPH), random_params(GRAPH, 1)
    for name in NAMES:
        path = ghn_jax.save(params, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} exists: overwrite=True"):
            ghn_jax.save(others, path)
        same(ghn_jax.load_params(path, GRAPH), params)
        ghn_jax.save(others, path, overwrite=True)
        same(ghn_jax.load_params(path, GRAPH), others)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for path in (tmp_path / "mine", "/dev/full"):
        with pytest.raises(CheckpointError, match="stays as it is"):
            ghn_jax.save(params, path, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_half_written_is_left_where_the_system_cannot_write(name, tmp_path):
    params = {"a": np.random.default_rng(0).standard_normal(100_000, np.float32)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=f"{name} cannot be written: "):
            ghn_jax.save(params, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.h5"}, "a.h5: expected a name ending in .safetensors, .npz"),
        ({"path": "a.npz", "layout": "tf"}, "layout='tf': expected 'jax' or 'torch'"),
        ({"path": "a.pt"}, "a.pt holds a state dictionary of PyTorch: expected layout='torch'"),
        ({"path": "a", "layout": "torch", "graph": GRAPH}, "a: layout='torch' is for files ending in"),
        ({"path": "a.npz", "layout": "torch"}, "layout='torch' needs graph="),
        ({"path": "a.npz", "what": {}}, "no arrays to save"),
        ({"path": "a.npz", "what": {"b": "text"}}, "parameter 'b' is a str"),
        ({"path": "a.npz", "what": {"b/c": np.ones(1), "b": {"c": np.ones(1)}}}, "'b/c' is there twice"),
        ({"path": "a.npz", "what": {"b": np.ones(1)}, "graph": GRAPH}, "what is to be saved has no array"),
        ({"path": "a.npz", "provenance": {"steps": 1}}, "provenance is stored with a hypernetwork"),
        ({"path": 5}, "5: expected the path of a file or folder"),
        (
            {"path": "a.npz", "what": {"b": np.zeros(2, [("x", "f4")])}},
            "is a ndarray of [('x', '<f4')], expected an arr",
        ),
        (
            {"path": "a.npz", "what": {"b": np.zeros(2, np.longdouble)}},
            "'b' is a ndarray of float128, expected an array",
        ),
        ({"path": "a.npz", "what": {"b": np.ma.array([1.0, 2.0], mask=[0, 1])}}, "'b' is a masked array"),
        ({"path": "a.npz", "what": {"b\0c": np.ones(1)}}, "array 'b\\x00c': expected a name without zero characters"),
        ({"path": "a", "what": {"b/c": np.ones(1), "b": np.ones(1)}}, "parameter 'b/c' lies in 'b', which is an array"),
        ({"path": "a.safetensors", "what": {"__metadata__": np.ones(1)}}, "this name is the metadata's"),
    ],
)
def test_what_cannot_be_saved_is_named(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        ghn_jax.save(**{"what": random_params(GRAPH), **arguments})
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_provenance_is_what_json_can_hold_by_name(tmp_path):
    deep: dict = {}
    for _ in range(5000):
        deep = {"deeper": deep}
    ghn = random_ghn(HypernetConfig(max_shape=(8, 8, 3, 3), hid=8))
    for name in ("a.npz", "a.safetensors"):
        given: Any
        for given, message in (([1], r"provenance=\[1\]: expected what is known"), (deep, "JSON cannot hold")):
            with pytest.raises(CheckpointError, match=message):
                ghn_jax.save(ghn, tmp_path / name, provenance=given)
    assert not list(tmp_path.iterdir())


def test_values_are_those_that_were_stored_or_refused(tmp_path):
    """Truth values are no weights, what float32 or int32 cannot hold becomes nothing else, and bytes have an order."""
    path, like = tmp_path / "a.safetensors", {tensor.name: np.ones(tensor.shape) for tensor in GRAPH.tensors}
    for dtype, value, message in (
        (np.bool_, 1, "is of type bool, expected float32"),
        (np.int64, 3, "is of type int64, expected float32"),
        (np.float64, 1e300, r"has the value 1e\+300, which float32 cannot hold"),
    ):
        ghn_jax.save({name: np.full(v.shape, value, dtype) for name, v in like.items()}, path, overwrite=True)
        with pytest.raises(CheckpointError, match=f"a.safetensors: array conv1.weight {message}"):
            ghn_jax.load_params(path, GRAPH)
    for values, held in ((np.array([2**40]), "int32"), (np.array([2**63], np.uint64), "uint32"), ([-1e39], "float32")):
        ghn_jax.save({"b": np.asarray(values)}, path, overwrite=True)
        with pytest.raises(CheckpointError, match=f"array b has the value .*, which {held} cannot hold"):
            ghn_jax.load_params(path)
    ghn_jax.save({"b": np.array([1.5, -np.inf, 1 / 3]), "file": np.array([1, 2], ">f4")}, tmp_path / "a.npz")
    found = ghn_jax.load_params(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["b"], np.array([1.5, -np.inf, 1 / 3], np.float32))
    np.testing.assert_array_equal(found["file"], np.array([1, 2], np.float32))


def test_names_that_no_file_can_have(tmp_path):
    for name in ("x" * 300, "a\0b"):
        for ending, layout in ((".safetensors", "jax"), (".npz", "jax"), ("", "jax"), (".pt", "torch")):
            with pytest.raises(CheckpointError):
                ghn_jax.load_params(tmp_path / f"{name}{ending}", GRAPH, layout=layout)
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            checkpoint.describe(tmp_path / name)


def test_files_of_another_model_or_layout_are_named(tmp_path):
    path = ghn_jax.save(random_params(GRAPH), tmp_path / "a.safetensors", graph=GRAPH)
    wider = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1, 1), width=8))
    deeper = ghn_jax.build_graph(ghn_jax.ResNet(depths=(2, 1), width=4))
    with pytest.raises(CheckpointError, match=r"array conv1.weight has shape \(3, 3, 3, 4\), expected \(3, 3, 3, 8\)"):
        ghn_jax.load_params(path, wider)
    with pytest.raises(CheckpointError, match="has no array layer1.1.bn1.bias"):
        ghn_jax.load_params(path, deeper)
    with pytest.raises(CheckpointError, match="was written with layout='jax', not 'torch'"):
        ghn_jax.load_params(path, GRAPH, layout="torch")
    with pytest.raises(CheckpointError, match="no file at"):
        ghn_jax.load_params(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="no folder of Orbax"):
        ghn_jax.load_params(tmp_path / "b")


def header(**fields):
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\xff" * 64, "no safetensors file, or was cut"),
        (header()[:-4], "or was cut"),
        (header() + bytes(7), "its arrays take 8 bytes, the file has 7"),
        (header(shape=[3]) + bytes(8), r"of float32 \[3\] does not fit into bytes \[0, 8\]"),
        (header(shape=[-2]) + bytes(8), "are no sizes"),
        (header(shape=[True, 2]) + bytes(8), "are no sizes"),
        (header(shape=[0, 2**63], data_offsets=[0, 0]), "are no sizes"),
        (header(shape=[0, 2**60], data_offsets=[0, 0]), "are no sizes"),
        (header().replace(b'"dtype"', b'"shape"', 1) + bytes(8), "it has 'shape' twice"),
        (header(dtype="F8") + bytes(8), "has type 'F8'"),
        (header(data_offsets=[8, 16]) + bytes(16), "begins at byte 8, expected 0"),
        (header(surplus=1) + bytes(8), "expected dtype, shape and data_offsets"),
        ((2).to_bytes(8, "little") + b"[]", "it is no object"),
        ((9000).to_bytes(8, "little") + b"[" * 9000, "damaged, or no safetensors"),
    ],
)
def test_damage_to_safetensors_is_named(content, message, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        ghn_jax.load_params(path)


def test_headers_buy_no_memory(tmp_path, monkeypatch):
    size = 1 << 39
    path = tmp_path / "sparse.safetensors"

    def declare(**metadata):
        entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
        text = json.dumps({"__metadata__": metadata, "a": entry}).encode()
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + size)

    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 512 GiB")

    monkeypatch.setattr(np, "fromfile", no_memory)
    declare()
    with pytest.raises(CheckpointError, match="sparse.safetensors cannot be read: Unable to allocate 512 GiB"):
        ghn_jax.load_params(path)
    declare(ghn_jax=json.dumps({"ghn": {"hid": 8}}))
    with pytest.raises(CheckpointError, match="sparse.safetensors has no array"):
        ghn_jax.load(path)
    declare(ghn_jax=json.dumps({"ghn": {"hypernet": "graphormer", "layers": 200}}))
    with pytest.raises(CheckpointError, match="has 1 arrays of 549,755,813,888 bytes, too few for"):
        ghn_jax.load(path)
    entries = ",".join(f'"{number}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for number in range(100_001))
    path.write_bytes((len(entries) + 2).to_bytes(8, "little") + b"{" + entries.encode() + b"}")
    with pytest.raises(CheckpointError, match="it has 100,001 arrays, expected at most 100,000"):
        ghn_jax.load_params(path)
    with open(path, "wb") as file:
        file.write((1 << 25).to_bytes(8, "little"))
        file.truncate(1 << 26)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        ghn_jax.load_params(path)


def test_folders_of_orbax_hold_what_they_declare(tmp_path):
    path = ghn_jax.save({"a": np.ones(3, np.float32)}, tmp_path / "params")
    checkpoint.check_shapes(path, {"a": jax.ShapeDtypeStruct((1 << 20,), np.float32)})
    with pytest.raises(CheckpointError, match=r"it has .* bytes, its arrays claim 4,398,046,511,104"):
        checkpoint.check_shapes(path, {"a": jax.ShapeDtypeStruct((1 << 40,), np.float32)})
    os.mkfifo(path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is no regular file"):
        ghn_jax.load_params(path)
