"""The parity check: it passes on reference figures, and names every kind of figure that is off.

Golden figures in `tests/data/parity` are checked in any clone.
"""

import dataclasses
import json
import pathlib
import re
import shutil

import h5py
import numpy as np
import pytest
import scripts
import torch_files
from reduce_reference import reduce_figures, reduce_reference
from reference import REFERENCE, needs_reference

from ghn_jax.ghn.config import HypernetConfig, to_json
from ghn_jax.graphs.graph import Role
from ghn_jax.networks.program import ParameterTensor
from ghn_jax.studies import parity

ROOT = scripts.ROOT
GOLDEN = ROOT / "tests" / "data" / "parity"

check_parity = scripts.load("benchmarks/check_parity.py")


def test_golden_names_shapes_and_graphs(capsys):
    reference = parity.Reference(GOLDEN)
    shapes, graphs = check_parity.check_shapes(reference), check_parity.check_graphs(reference)
    assert shapes.show() and graphs.show(), capsys.readouterr().out
    assert shapes.checked == len(reference.networks) == 10
    assert graphs.checked == 8


def test_golden_logits(capsys):
    reference = parity.Reference(GOLDEN)
    logits = check_parity.check_logits(reference)
    assert logits.show(), capsys.readouterr().out
    assert logits.checked == 10
    assert not logits.notes
    assert 0 < max(logits.errors) < check_parity.LOGITS_TOLERANCE


def test_the_last_bits_of_parameters_hardly_matter_to_a_shallow_network():
    reference = parity.Reference(GOLDEN)
    program = check_parity._program(reference, "val/0/cifar10")
    params = {tensor.name: parity.parameter(tensor) for tensor in program.tensors}
    sensitivity = check_parity._sensitivity(program, params, parity.logits(program, params))
    assert 1e-9 < sensitivity < 1e-5


def test_parameters_are_seeded_by_name_and_laid_out_for_jax():
    tensor = ParameterTensor("stem.0.weight", Role.WEIGHT, (3, 3, 2, 4))
    values = parity.parameter(tensor)
    assert values.shape == tensor.shape and values.dtype == np.float32
    generator = np.random.RandomState(0xCCEFE596)  # the CRC-32 of the name
    expected = generator.standard_normal((4, 2, 3, 3)) * np.sqrt(2 / 18)
    np.testing.assert_allclose(values[2, 1, 0, 3], expected[3, 0, 2, 1], rtol=1e-6)


@pytest.fixture(scope="session")
def small_reference(tmp_path_factory) -> pathlib.Path:
    """Two networks, a predefined graph and a hypernetwork of the reference folder."""
    folder = tmp_path_factory.mktemp("reference")
    reduce_reference(REFERENCE, folder, {"val": (30, 42)}, ["graph/cifar10/vit"], ["ghn2_cifar10"], ["cifar10"])
    return folder


@needs_reference
def test_a_part_of_the_reference_passes(small_reference, capsys):
    assert check_parity.main([f"--reference={small_reference}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = [
        r"parameter names, shapes and counts of networks: 2 checked, exact",
        r"graphs: nodes, shortest paths and sizes: 3 checked, exact",
        r"logits of networks: 2 checked, worst error \S+ \(allowed 1e-04\)",
        r"node embeddings: 2 checked, worst error \S+ \(allowed 1e-04\)",
        r"predicted parameters: 2 checked, worst error \S+ \(allowed 1e-04\)",
        r"logits of networks with predicted parameters: 2 checked, worst error \S+ \(allowed 1e-03\)",
    ]
    for pattern, line in zip(expected, lines, strict=False):
        assert re.fullmatch(pattern, line)
    assert lines[-1].startswith("all agree")


def _json(name, change):
    def mutate(folder):
        contents = json.loads((folder / name).read_text())
        change(contents)
        (folder / name).write_text(json.dumps(contents))

    return mutate


def _networks(change):
    return _json("networks.json", lambda contents: change(contents["val/0/cifar10"]))


def _meta(change):
    return _json("deepnets1m_eval_meta.json", lambda contents: change(contents["val"]["nets"][1]))


def _predefined(change):
    return _json("predictions.json", lambda contents: change(contents["graph/cifar10/vit"]))


def _predicted(change):
    return _json("predictions.json", lambda contents: change(contents["ghn2_cifar10/val/0"]))


def _graphs(dataset, index, value):
    def mutate(folder):
        with h5py.File(folder / "deepnets1m_eval.hdf5", "r+") as file:
            file[f"val/1/{dataset}"][index] = value

    return mutate


def _arrays(name, entry, index, change):
    def mutate(folder):
        with np.load(folder / name) as archive:
            contents = {key: archive[key] for key in archive.files}
        contents[entry][index] += change
        np.savez(folder / name, **contents)

    return mutate


def _set(path, value):
    """Sets an entry of nested lists and dictionaries; `value` may be a function of the old one."""

    def change(contents):
        for key in path[:-1]:
            contents = contents[key]
        contents[path[-1]] = value(contents[path[-1]]) if callable(value) else value

    return change


def _add(value):
    return lambda old: old + value


STEM = "stem0.0.weight"

CHANGES = {
    "shape": (
        _networks(_set(["param_shapes", STEM, 0], 17)),
        "networks.json: val/0/cifar10: shape of stem0.0.weight is [17, 3, 5, 5], expected [16, 3, 5, 5]",
    ),
    "missing parameter": (
        _networks(lambda network: network["param_shapes"].pop("classifier.0.bias")),
        "networks.json: val/0/cifar10: shape of classifier.0.bias is None, expected [10]",
    ),
    "count": (
        _networks(_set(["num_params"], _add(1))),
        "networks.json: val/0/cifar10: num_params is 157275, expected 157274",
    ),
    "logit": (_networks(_set(["logits", 2, 3], _add(0.01))), "networks.json: val/0/cifar10: logits has an error of"),
    "tiny change of a logit": (
        _networks(_set(["logits", 0, 0], _add(1e-3))),
        "networks.json: val/0/cifar10: logits_norm has an error of",
    ),
    "norm of logits": (
        _networks(_set(["logits_norm"], _add(0.01))),
        "networks.json: val/0/cifar10: logits_norm has an error of",
    ),
    "logits that are no numbers": (
        _networks(_set(["logits", 0, 0], float("nan"))),
        "networks.json: val/0/cifar10: logits has an error of nan",
    ),
    "number of nodes": (
        _meta(_set(["num_nodes"], _add(1))),
        "deepnets1m_eval_meta.json: val/1: num_nodes is 65, expected 64",
    ),
    "published count": (
        _meta(_set(["num_params", "imagenet"], _add(-1))),
        "deepnets1m_eval_meta.json: val/1: num_params of imagenet is",
    ),
    "operation of the genotype": (
        _meta(_set(["genotype", "normal", 0, 0], "conv_9x9")),
        "deepnets1m_eval_meta.json: val/1: Genotype.normal[0]: unknown primitive 'conv_9x9'",
    ),
    "distance": (_graphs("adj", (3, 9), 77), "deepnets1m_eval.hdf5: val/1: the distance from node 3 to node 9 is 77"),
    "edge": (_graphs("adj", (0, 1), 0), "deepnets1m_eval.hdf5: val/1: "),
    "node type": (
        _graphs("nodes", (8, 0), 0),
        "deepnets1m_eval.hdf5: val/1: nodes 'input cells.0._ops.1.op.1.weight', "
        "expected 'sep_conv cells.0._ops.1.op.1.weight'",
    ),
    "node type without a name": (
        _graphs("nodes", (8, 0), 99),
        "deepnets1m_eval.hdf5: val/1: deepnets1m_eval_meta.json",
    ),
    "cell of a node": (_graphs("nodes", (7, 1), 1), "deepnets1m_eval.hdf5: val/1: no node of the list, in its order"),
    "distance in a predefined graph": (
        _predefined(_set(["edges", 100, 2], _add(1))),
        "predictions.json: graph/cifar10/vit: the distance from node",
    ),
    "type in a predefined graph": (
        _predefined(_set(["node_types", 6], "cse")),
        "predictions.json: graph/cifar10/vit: nodes 'cse cse', expected 'msa msa'",
    ),
    "shape in a predefined graph": (
        _predefined(_set(["node_params", 0, 2, 0], 127)),
        "predictions.json: graph/cifar10/vit: nodes 'conv stem0.weight [127, 3, 3, 3]'",
    ),
    "embedding": (
        _arrays("ghn2_cifar10_embeddings.npz", "val__0", (7, 3), 1e-3),
        "ghn2_cifar10_embeddings.npz: val/0: node 7 has an error of 0.001",
    ),
    "weight of a hypernetwork": (
        _arrays("ghn2_cifar10.npz", "gnn.gru.weight_hh", (0, 0), 0.1),
        "ghn2_cifar10_embeddings.npz: val/0: node",
    ),
    "weight of a decoder": (
        _arrays("ghn2_cifar10.npz", "decoder.conv.2.bias", 0, 0.1),
        "predictions.json: ghn2_cifar10/val/0: ",
    ),
    "norm of a predicted parameter": (
        _predicted(_set(["params", STEM, 0], lambda norm: 1.001 * norm)),
        "predictions.json: ghn2_cifar10/val/0: stem0.0.weight: figure 0 has an error of 0.001",
    ),
    "mean of a predicted parameter": (
        _predicted(_set(["params", STEM, 1], _add(1e-4))),
        "predictions.json: ghn2_cifar10/val/0: stem0.0.weight: figure 1 has an error of",
    ),
    "value of a predicted parameter": (
        _predicted(_set(["params", STEM, 10], _add(1e-4))),
        "predictions.json: ghn2_cifar10/val/0: stem0.0.weight: figure 10 has an error of",
    ),
    "missing predicted parameter": (
        _predicted(lambda network: network["params"].pop(STEM)),
        "predictions.json: ghn2_cifar10/val/0: stem0.0.weight is predicted, but not in the file",
    ),
    "surplus predicted parameter": (
        _predicted(_set(["params"], lambda params: {**params, "stem9.weight": params[STEM]})),
        "predictions.json: ghn2_cifar10/val/0: stem9.weight is not predicted",
    ),
    "logit of a predicted network": (
        _predicted(_set(["logits", 3, 9], lambda logit: 1.01 * logit + 0.01)),
        "predictions.json: ghn2_cifar10/val/0: logits has an error of",
    ),
}


@needs_reference
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_named(kind, small_reference, tmp_path, capsys):
    mutate, message = CHANGES[kind]
    folder = tmp_path / "reference"
    shutil.copytree(small_reference, folder)
    mutate(folder)
    assert check_parity.main([f"--reference={folder}"]) == 1
    captured = capsys.readouterr()
    assert message in captured.out
    assert captured.out.splitlines()[-1].startswith("something is off")


# Figures of GHN-3 lie in a folder of their own, and belong to the same graphs and networks.


@pytest.fixture(scope="session")
def ghn3_reference(tmp_path_factory) -> pathlib.Path:
    """One network of the reference folder, what a GHN-3 predicts for it, and that GHN-3's published files."""
    folder = tmp_path_factory.mktemp("ghn3_reference")
    reduce_reference(REFERENCE, folder, {"val": (30,)}, [], [], ["cifar10"])
    (folder / "ghn3").mkdir()
    reduce_figures(REFERENCE / "ghn3", folder / "ghn3", {"val/30": "val/0"}, [], ["ghn3_cifar10"])
    for path in (REFERENCE / "ghn3").glob("*.pt"):
        shutil.copyfile(path, folder / "ghn3" / path.name)
    return folder


def ghn3_sections(folder):
    reference = parity.Reference(folder)
    figures = reference.figures[1]
    ghns = check_parity.load_hypernetworks(figures)
    yield check_parity.check_embeddings(reference, figures, ghns)
    yield from check_parity.check_predictions(reference, figures, ghns)
    yield check_parity.check_checkpoints(figures)


@needs_reference
def test_figures_of_ghn3_pass(ghn3_reference, capsys):
    assert all([section.show() for section in ghn3_sections(ghn3_reference)])
    expected = [
        r"GHN-3: node embeddings: 1 checked, worst error \S+ \(allowed 1e-04\)",
        r"GHN-3: predicted parameters: 1 checked, worst error \S+ \(allowed 1e-04\)",
        r"GHN-3: logits of networks with predicted parameters: 1 checked, worst error \S+ \(allowed 1e-03\)",
        r"GHN-3: checkpoints: 2 checked, exact",
    ]
    for pattern, line in zip(expected, capsys.readouterr().out.splitlines(), strict=True):
        assert re.fullmatch(pattern, line)


def _byte(name, place):
    def mutate(folder):
        contents = bytearray((folder / name).read_bytes())
        contents[place] ^= 1
        (folder / name).write_bytes(contents)

    return mutate


def _ghn3(path, value):
    change = _set(path, value)
    return _json("ghn3/predictions.json", lambda contents: change(contents["ghn3_cifar10/val/0"]))


GHN3_PLACE = "ghn3/predictions.json: ghn3_cifar10/val/0: "
GHN3_CHANGES = {
    "embedding": (
        _arrays("ghn3/ghn3_cifar10_embeddings.npz", "val__0", (7, 3), 2e-4),
        "ghn3/ghn3_cifar10_embeddings.npz: val/0: node 7 has an error of 0.0002",
    ),
    "table of edges": (
        _arrays("ghn3/ghn3_cifar10.npz", "gnn.0.attn.edge_embed.embed.weight", (3, 0), 0.1),
        "ghn3/ghn3_cifar10_embeddings.npz: val/0: node",
    ),
    "middle of the decoder": (
        _arrays("ghn3/ghn3_cifar10.npz", "decoder.fc.0.bias", 5 * 11 + 5, 1),
        f"{GHN3_PLACE}",
    ),
    "norm": (_ghn3(["params", STEM, 0], lambda norm: 1.0002 * norm), f"{GHN3_PLACE}{STEM}: figure 0 has"),
    "deviation": (_ghn3(["params", STEM, 2], lambda std: 1.0002 * std), f"{GHN3_PLACE}{STEM}: figure 2 has"),
    "value": (_ghn3(["params", STEM, 5], _add(1e-3)), f"{GHN3_PLACE}{STEM}: figure 5 has"),
    "logit": (_ghn3(["logits", 0, 0], lambda logit: 1.01 * logit + 0.01), f"{GHN3_PLACE}logits has an error of"),
    "weight in a file of joblib": (
        _byte("ghn3/ghn3_cifar10.joblib.pt", 1_000_000),
        "ghn3_cifar10.joblib.pt: decoder/position_kernel is different, expected the same",
    ),
}


@needs_reference
@pytest.mark.parametrize("kind", GHN3_CHANGES)
def test_a_change_of_a_figure_of_ghn3_is_named(kind, ghn3_reference, tmp_path, capsys):
    mutate, message = GHN3_CHANGES[kind]
    folder = tmp_path / "reference"
    shutil.copytree(ghn3_reference, folder)
    mutate(folder)
    assert not all([section.show() for section in ghn3_sections(folder)])
    assert message in capsys.readouterr().out


@needs_reference
def test_the_command_checks_ghn3_too(ghn3_reference, tmp_path, capsys):
    folder = tmp_path / "reference"
    shutil.copytree(ghn3_reference, folder)
    (folder / "ghn3" / "ghn3_cifar10_embeddings.npz").unlink()
    check_parity.main([f"--reference={folder}"])
    out = capsys.readouterr().out
    assert "GHN-3: node embeddings: 0 checked, FAILED" in out
    assert "ghn3/ghn3_cifar10_embeddings.npz: no such file" in out
    (folder / "ghn3" / "predictions.json").unlink()
    assert check_parity.main([f"--reference={folder}"]) == 1
    assert "ghn3/predictions.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, message",
    [
        ("networks.json", "networks.json cannot be read: "),
        ("deepnets1m_eval.hdf5", "deepnets1m_eval.hdf5 cannot be read: "),
    ],
)
def test_a_damaged_or_missing_file_is_named(name, message, tmp_path, capsys):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert check_parity.main([f"--reference={folder}"]) == 1
    assert message in capsys.readouterr().err
    (folder / name).unlink()
    assert check_parity.main([f"--reference={folder}"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("change", ["none", "weight", "config", "name"])
def test_checkpoints_hold_what_the_arrays_hold(change, tmp_path):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    config = HypernetConfig(max_shape=(4, 4, 3, 3), num_classes=3, layernorm=True, hid=8)
    state = torch_files.random_state_dict(config)
    np.savez(folder / "ghn.npz", **state, __config__=to_json(config))
    if change == "weight":
        state["ln.weight"][3] += 1
    if change == "name":
        state["ln.offset"] = state.pop("ln.bias")
    if change == "config":
        config = dataclasses.replace(config, weight_norm=True)
    (folder / "ghn.pt").write_bytes(torch_files.archived(*torch_files.checkpoint(config, state)))
    section = check_parity.check_checkpoints(parity.Reference(folder).figures[0])
    expected = {
        "none": [],
        "weight": ["ghn.pt: norm/scale is different, expected the same"],
        "config": [r"ghn.pt: config is HypernetConfig\(.*weight_norm=True"],
        "name": ["ghn.pt: the state dictionary does not belong to .*: missing ln.bias; surplus ln.offset"],
    }[change]
    assert section.checked == 1 and len(section.failures) == len(expected)
    assert all(re.search(pattern, found) for pattern, found in zip(expected, section.failures, strict=True))


def test_no_checkpoints_are_nothing_off(capsys):
    assert check_parity.check_checkpoints(parity.Reference(GOLDEN).figures[0]) is None
    assert capsys.readouterr().out == "checkpoints: none in this folder\n"
