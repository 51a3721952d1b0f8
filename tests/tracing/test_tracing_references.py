"""References (`jax.new_ref`): what is read from one is what was last written into it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_ghns import SMALL, random_ghn
from traced import counts

import ghn_jax
from ghn_jax.prediction.predict import predict_params
from ghn_jax.prediction.report import Verdict

GHN = random_ghn(SMALL)
PARAMS = {"w": jnp.ones((8, 6)), "b": jnp.zeros(6), "o": jnp.ones((6, 10))}
STACKS = {"w": jnp.ones((3, 8, 8)), "b": jnp.zeros((3, 8)), "o": jnp.ones((8, 10))}
X = jnp.ones((4, 8))


def plain(p, x):
    return jax.nn.relu(x @ p["w"] + p["b"]) @ p["o"]


def read_and_written(p, x):
    kernel, hidden = jax.new_ref(p["w"]), jax.new_ref(jnp.zeros((4, 6)))
    hidden[...] = x @ kernel[...]
    hidden[...] = hidden[...] + p["b"]
    return jax.nn.relu(hidden[...]) @ p["o"]


def row_by_row(p, x):
    hidden, rows = jax.new_ref(jnp.zeros((4, 6))), x @ p["w"] + p["b"]
    for row in range(4):
        hidden[row] = rows[row]
    return jax.nn.relu(jax.freeze(hidden)) @ p["o"]


def added(p, x):
    hidden = jax.new_ref(x @ p["w"])
    jax.ref.addupdate(hidden, ..., jnp.broadcast_to(p["b"], (4, 6)))
    return jax.nn.relu(hidden[...]) @ p["o"]


def in_parts(p, x):
    kernel = jax.new_ref(p["w"])
    hidden = jnp.concatenate([x @ kernel[:, :4], x @ kernel[:, 4:]], axis=1)
    return jax.nn.relu(hidden + p["b"]) @ p["o"]


def in_a_function(p, x):
    hidden = jax.new_ref(x @ p["w"])

    @jax.jit
    def shift(hidden, bias):
        hidden[...] += bias

    shift(hidden, p["b"])
    return jax.nn.relu(hidden[...]) @ p["o"]


@pytest.mark.parametrize("run", [read_and_written, row_by_row, added, in_parts, in_a_function])
def test_references_change_nothing(run):
    expected, graph = (ghn_jax.trace(function, PARAMS, X, strict=True) for function in (plain, run))
    if run is in_parts:
        assert [tensor.name for tensor in graph.tensors] == ["w[0:4]", "w[4:6]", "b", "o"]
        return
    assert counts(graph) == counts(expected) == {"input": 1, "conv": 2, "bias": 1}
    values = (predict_params(graph, GHN), predict_params(expected, GHN))
    jax.tree.map(np.testing.assert_array_equal, *values)


def stacks(p, x):
    for w, b in zip(p["w"], p["b"], strict=True):
        x = jax.nn.relu(x @ w + b)
    return x @ p["o"]


def of_the_stack(p, x):
    w, b = jax.new_ref(p["w"]), jax.new_ref(p["b"])
    for layer in range(3):
        x = jax.nn.relu(x @ w[layer] + b[layer])
    return x @ p["o"]


def across_rounds(p, x):
    hidden = jax.new_ref(x)

    def layer(carry, params):
        hidden[...] = jax.nn.relu(hidden[...] @ params[0] + params[1])
        return carry, None

    jax.lax.scan(layer, 0, (p["w"], p["b"]))
    return hidden[...] @ p["o"]


@pytest.mark.parametrize("run", [of_the_stack, across_rounds])
def test_layers_of_a_stack_through_references(run):
    expected, graph = (ghn_jax.trace(function, STACKS, X, strict=True) for function in (stacks, run))
    assert [tensor.name for tensor in graph.tensors] == ["w[0]", "b[0]", "w[1]", "b[1]", "w[2]", "b[2]", "o"]
    values = (predict_params(graph, GHN), predict_params(expected, GHN))
    jax.tree.map(np.testing.assert_array_equal, *values)


def test_a_kernel_that_was_changed_in_a_reference_is_solved_for():
    def run(p, x):
        kernel = jax.new_ref(p["w"])
        kernel[...] = kernel[...] * 0.5 + 1
        return jax.nn.relu(x @ kernel[...] + p["b"]) @ p["o"]

    expected, graph = (ghn_jax.trace(function, PARAMS, X, strict=True) for function in (plain, run))
    found = predict_params(graph, GHN)["w"] * 0.5 + 1
    np.testing.assert_allclose(found, predict_params(expected, GHN)["w"], atol=1e-6)


def in_a_loop(hidden, p, x):
    def body(_, carry):
        hidden[...] = hidden[...] + p["b"]
        return carry

    jax.lax.fori_loop(0, 3, body, 0)


def in_a_branch(hidden, p, x):
    def shift():
        hidden[...] = hidden[...] + p["b"]

    jax.lax.cond(x.sum() > 0, shift, lambda: None)


def by_a_list(hidden, p, x):
    hidden[jnp.array([0, 2])] = x[:2] @ p["w"] + p["b"]


def with_steps(hidden, p, x):
    hidden[::2] = x[::2] @ p["w"] + p["b"]


@pytest.mark.parametrize("write", [in_a_loop, in_a_branch, by_a_list, with_steps])
def test_writes_that_are_not_followed_are_unknown_operations(write):
    def run(p, x):
        hidden = jax.new_ref(x @ p["w"])
        write(hidden, p, x)
        return jax.nn.relu(hidden[...]) @ p["o"]

    graph = ghn_jax.trace(run, PARAMS, X)
    assert graph.tree.unsupported == ("'swap' in the model",)
    left = {row.name: row.reasons[0] for row in ghn_jax.report(graph).of(Verdict.INITIALISED)}
    assert left == {
        "b": "the output does not depend on it, but for what is read from references in ways that are not followed"
    }
    with pytest.raises(ghn_jax.TraceError, match="unknown operation 'swap' in the model"):
        ghn_jax.trace(run, PARAMS, X, strict=True)


def test_a_reference_made_inside_of_a_loop_or_a_branch_is_followed_there():
    def run(p, x):
        def layer(x):
            hidden = jax.new_ref(x @ p["w"])
            hidden[...] += p["b"]
            return hidden[...]

        return jax.lax.cond(x.sum() > 0, layer, lambda x: x[:, :6], x) @ p["o"]

    graph = ghn_jax.trace(run, PARAMS, X, strict=True)
    assert [tensor.name for tensor in graph.tensors] == ["w", "b", "o"]
