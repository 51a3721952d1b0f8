"""Loops that hand values on late, what only decides, buffers, primitives that hold jaxprs, and what strict refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from traced import counts

import ghn_jax
from ghn_jax.prediction.report import Verdict


def ones(*sizes):
    return jnp.ones(sizes)


def left(graph):
    return {row.name: row.reasons[0] for row in ghn_jax.report(graph).of(Verdict.INITIALISED)}


def by_scan(step, carry, length):
    return jax.lax.scan(lambda carry, _: (step(carry), None), carry, None, length=length)[0]


def by_while(step, carry, length):
    return jax.lax.while_loop(lambda c: c[0] < length, lambda c: (c[0] + 1, step(c[1])), (0, carry))[1]


LOOPS = {
    "scan": by_scan,
    "while": by_while,
    "fori": lambda step, carry, length: jax.lax.fori_loop(0, length, lambda _, carry: step(carry), carry),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_what_one_carry_hands_to_another_is_found(loop):
    def two(p, x):
        step = lambda c: (x @ p["w"], jnp.tanh(c[0]) @ p["u"])  # noqa: E731
        return LOOPS[loop](step, (jnp.zeros((2, 8)), jnp.zeros((2, 10))), 100)[1]

    def three(p, x):
        step = lambda c: (x @ p["w"], jnp.tanh(c[0]) @ p["v"], jnp.tanh(c[1]) @ p["u"])  # noqa: E731
        return LOOPS[loop](step, (jnp.zeros((2, 8)), jnp.zeros((2, 8)), jnp.zeros((2, 10))), 100)[2]

    params = {"w": ones(4, 8), "u": ones(8, 10)}
    assert counts(ghn_jax.trace(two, params, ones(2, 4), strict=True)) == {"input": 1, "conv": 2}
    assert counts(ghn_jax.trace(three, params | {"v": ones(8, 8)}, ones(2, 4), strict=True))["conv"] >= 3


DECIDERS = {
    "cond": lambda by, x, p: jax.lax.cond(by.sum() > 0, lambda x: x @ p["a"], lambda x: jax.nn.relu(x @ p["b"]), x),
    "switch": lambda by, x, p: jax.lax.switch(
        jnp.argmax(by.sum(0)), [lambda x: x @ p["a"], lambda x: jax.nn.relu(x @ p["b"])], x
    ),
    "where": lambda by, x, p: jnp.where(by.sum() > 0, x @ p["a"], jax.nn.relu(x @ p["b"])),
    "while": lambda by, x, p: (
        jax.lax.while_loop(lambda c: (c @ p["r"]).sum() < 9, lambda c: jnp.tanh(c @ p["s"]), x) @ p["a"] @ p["b"].T
    ),
}


@pytest.mark.parametrize("decider", DECIDERS)
def test_layers_that_only_decide_are_left_with_that_reason(decider):
    params = {"r": ones(4, 3), "s": ones(4, 4), "a": ones(4, 10), "b": ones(4, 10)}
    if decider != "while":
        del params["s"]
    graph = ghn_jax.trace(lambda p, x: DECIDERS[decider](x @ p["r"], x, p), params, ones(2, 4))
    assert left(graph) == {"r": "it only decides which way the computation takes"}
    with pytest.raises(ghn_jax.TraceError, match="'r': it only decides"):
        ghn_jax.trace(lambda p, x: DECIDERS[decider](x @ p["r"], x, p), params, ones(2, 4), strict=True)


def test_scales_of_means_are_left_with_that_reason():
    """As in difference convolutions: the mean of an activation, scaled, is taken from it."""
    params = {"w": ones(4, 8), "share": ones(8), "o": ones(8, 10)}
    for scale in (jax.nn.sigmoid, lambda share: share):

        def run(p, x, scale=scale):
            h = x @ p["w"]
            return jax.nn.relu(h - scale(p["share"]) * h.mean(1, keepdims=True)).mean(1) @ p["o"]

        assert left(ghn_jax.trace(run, params, ones(2, 6, 4))) == {
            "share": "it scales a mean that only changes activations"
        }


BUFFERS = {
    "scatter": lambda t: jnp.zeros((5, 8)).at[0].set(t),
    "update": lambda t: jax.lax.dynamic_update_slice(jnp.zeros((5, 8)), t[None], (0, 0)),
    "index": lambda t: jax.lax.dynamic_update_index_in_dim(jnp.zeros((5, 8)), t, 2, 0),
    "add": lambda t: jnp.zeros((5, 8)).at[1].add(t),
}


@pytest.mark.parametrize("buffer", BUFFERS)
def test_values_written_into_a_buffer_have_its_shape(buffer):
    def learned(p, x):
        row = jax.lax.dynamic_slice(BUFFERS[buffer](p["token"]), (0, 0), (1, 8))
        return jax.nn.relu(x @ p["w"] + row) @ p["o"]

    def computed(p, x):
        rows = jax.vmap(BUFFERS[buffer])(x @ p["w"])
        return (rows + p["token"])[:, 0] @ p["o"]

    params = {"token": ones(8), "w": ones(4, 8), "o": ones(8, 10)}
    for run in (learned, computed):
        graph = ghn_jax.trace(run, params, ones(2, 4), strict=True)
        assert counts(graph) == {"input": 1, "conv": 2, "bias": 1}


def test_scales_and_biases_of_part_of_an_activation():
    def run(p, x):
        x = (x @ p["w"]).at[:, :4].add(p["b"])
        x = (x - x.mean(1, keepdims=True)) * jax.lax.rsqrt(x.var(1, keepdims=True) + 1e-6)
        return x.at[:, :4].multiply(p["g"]) @ p["o"]

    params = {"w": ones(4, 8), "b": jnp.zeros(4), "g": ones(4), "o": ones(8, 10)}
    graph = ghn_jax.trace(run, params, ones(2, 4), strict=True)
    assert counts(graph) == {"input": 1, "conv": 2, "bias": 1, "ln": 1}
    assert {tensor.name: tensor.role.value for tensor in graph.tensors} == {
        "w": "weight",
        "b": "bias",
        "g": "norm_weight",
        "o": "class_weight",
    }


def refuse(*_):
    raise ValueError("not finite")


def raised(x, code=0):
    return jax.pure_callback(refuse, jax.ShapeDtypeStruct(x.shape, x.dtype), code)


CHECKS = {
    "cond": lambda x: jax.lax.cond(jnp.isfinite(x).all(), lambda x: x, raised, x),
    "switch": lambda x: jax.lax.switch(jnp.int32(x.sum() > 1e9), [lambda x: x, raised, raised], x),
    "which of several": lambda x: jax.lax.cond(
        x.sum() > 1e9, lambda x, code: raised(x, code), lambda x, code: x, x, jnp.argmax(x)
    ),
    "two steps": lambda x: jax.lax.cond(x.max() > 1e9, lambda x: raised(raised(x)), lambda x: x, x),
}


@pytest.mark.parametrize("check", CHECKS)
def test_checks_that_only_raise_are_no_operations(check):
    """As those of Equinox, which every solver of diffrax has."""

    def run(p, x):
        return jnp.tanh(CHECKS[check](x @ p["w"])) @ p["o"]

    params = {"w": ones(4, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(run, params, ones(2, 4), strict=True)
    assert counts(graph) == {"input": 1, "conv": 2}


def test_callbacks_that_compute_something_are_unknown():
    def computed(x):
        return jax.pure_callback(lambda x: x + 1, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def run(p, x):
        return jax.lax.cond(x.sum() > 0, computed, lambda x: x, x @ p["w"]) @ p["o"]

    params = {"w": ones(4, 8), "o": ones(8, 10)}
    assert ghn_jax.trace(run, params, ones(2, 4)).tree.unsupported == ("'pure_callback' in the model",)


def stage_of(params_of):
    """A primitive that holds a jaxpr, as newer versions of JAX have for traced stages."""
    stage = Primitive("run_stage")
    stage.multiple_results = True
    stage.def_abstract_eval(lambda *avals, **params: [jax.core.ShapedArray((2, 8), jnp.float32)])
    return lambda closed, *args: stage.bind(*args, **params_of(closed))[0]


class Fixed(dict):
    """A dictionary that may be a parameter of a primitive."""

    __hash__ = object.__hash__


HOLDERS = {
    "closed": lambda closed: {"jaxpr": closed},
    "in a dictionary": lambda closed: {"stages": Fixed(forward=closed, backward=None)},
    "in tuples": lambda closed: {"stages": (("first", closed),)},
    "listed": lambda closed: {"stages": (closed,), "name": "stage"},
    "open": lambda closed: {"call": closed.jaxpr, "inline": False},
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_every_primitive_that_holds_a_jaxpr_is_entered(holder):
    def layer(w, x):
        return jax.nn.relu(x @ w)

    closed = jax.make_jaxpr(layer)(ones(4, 8), ones(2, 4))
    stage = stage_of(HOLDERS[holder])

    def run(p, x):
        return stage(closed, p["w"], x) @ p["o"]

    params = {"w": ones(4, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(run, params, ones(2, 4), strict=True)
    assert counts(graph) == {"input": 1, "conv": 2}
    assert [tensor.name for tensor in graph.tensors] == ["w", "o"]


def test_branches_of_any_primitive_are_entered():
    first, second = (
        jax.make_jaxpr(layer)(ones(4, 8), ones(2, 4))
        for layer in (lambda w, x: jnp.tanh(x @ w), lambda w, x: jax.nn.relu(x @ w))
    )
    choice = Primitive("choice")
    choice.multiple_results = True
    choice.def_abstract_eval(lambda *avals, **params: [jax.core.ShapedArray((2, 8), jnp.float32)])

    def run(p, x):
        return choice.bind(jnp.argmax(x), p["w"], x, ways=(first, second))[0] @ p["o"]

    graph = ghn_jax.trace(run, {"w": ones(4, 8), "o": ones(8, 10)}, ones(2, 4))
    assert graph.tree.unsupported == () and graph.tree.unpredicted == {}
    assert counts(graph)["conv"] == 3  # one in each branch


def alternating(h, w, even):
    return jax.lax.cond(even, lambda h: jnp.tanh(h @ w), lambda h: jnp.tanh(h @ w) * h, h)


def by_counter(p, h):
    step = lambda c, w: ((c[0] + 1, alternating(c[1], w, c[0] % 2 == 0)), None)  # noqa: E731
    return jax.lax.scan(step, (0, h), p["s"])[0][1]


def by_range(p, h):
    return jax.lax.scan(lambda h, c: (alternating(h, c[0], c[1] // 2 != 1), None), h, (p["s"], jnp.arange(4)))[0]


def by_kinds(p, h):
    ways = [lambda h, w: jnp.tanh(h @ w) * h, lambda h, w: jnp.tanh(h @ w)]
    return jax.lax.scan(lambda h, c: (jax.lax.switch(c[1], ways, h, c[0]), None), h, (p["s"], np.array([1, 0, 1, 0])))[
        0
    ]


def by_hand(p, h):
    for index in range(4):
        h = jax.lax.switch(
            index % 2, [lambda h, w: jnp.tanh(h @ w), lambda h, w: jnp.tanh(h @ w) * h], h, p["s"][index]
        )
    return h


def by_counted_while(p, h):
    step = lambda c: (c[0] + 1, alternating(c[1], p["s"][c[0]], c[0] % 2 == 0))  # noqa: E731
    return jax.lax.while_loop(lambda c: c[0] < 4, step, (0, h))[1]


@pytest.mark.parametrize("run", [by_counter, by_range, by_kinds, by_hand, by_counted_while])
def test_branches_that_are_known_are_the_only_ones(run):
    """Layers of two kinds in turns: two of each, and every one with its own row of the stack."""
    params = {"s": ones(4, 8, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(lambda p, x: run(p, x) @ p["o"], params, ones(2, 8), strict=True)
    assert counts(graph) == {"input": 1, "conv": 5, "cse": 2}
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    assert shapes == {f"s[{index}]": (8, 8) for index in range(4)} | {"o": (8, 10)}


def test_only_the_branch_of_all_platforms_is_read():
    def run(p, x):
        ways = {"tpu": lambda x: x @ p["w"] @ p["v"], "default": lambda x: jnp.tanh(x @ p["w"])}
        return jax.lax.platform_dependent(x, **ways) @ p["o"]

    params = {"w": ones(4, 8), "v": ones(8, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(run, params, ones(2, 4))
    assert counts(graph) == {"input": 1, "conv": 2}
    assert left(graph) == {"v": "the output does not depend on it"}


def test_layers_picked_by_a_loop_of_unknown_length_have_fan_ins_of_their_own():
    def linear(p, x, length):
        return jax.lax.fori_loop(0, length, lambda i, h: jnp.tanh(h @ p["s"][i]), x) @ p["o"]

    def convolution(p, x, length):
        layer = lambda i, h: jnp.tanh(jax.lax.conv(h, p["s"][i].transpose(3, 2, 0, 1), (1, 1), "SAME"))  # noqa: E731
        return jax.lax.fori_loop(0, length, layer, x).mean((2, 3)) @ p["o"]

    params = {"s": ones(3, 8, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(linear, params, ones(2, 8), jnp.int32(3), strict=True)
    assert [tensor.shape for tensor in graph.tensors] == [(8, 24), (8, 10)]
    params = {"s": ones(3, 5, 5, 8, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(convolution, params, ones(2, 8, 6, 6), jnp.int32(3), strict=True)
    assert [tensor.shape for tensor in graph.tensors] == [(5, 5, 8, 24), (8, 10)]


def by_fori(p, x, rounds):
    return jax.lax.fori_loop(0, rounds, lambda i, h: jax.nn.relu(h @ p["w"][i] + p["b"][i]), x)


def by_criterion(p, x, _):
    def body(carry):
        i, h = carry
        return i + 1, jax.nn.relu(h @ p["w"][i] + p["b"][i])

    return jax.lax.while_loop(lambda carry: carry[1].sum() < 100, body, (0, x))[1]


def by_slices(p, x, rounds):
    def body(i, h):
        w, b = (jax.lax.dynamic_index_in_dim(p[name], i, keepdims=False) for name in "wb")
        return jax.nn.relu(h @ w + b)

    return jax.lax.fori_loop(0, rounds, body, x)


@pytest.mark.parametrize("run", [by_fori, by_criterion, by_slices])
def test_biases_picked_by_a_loop_of_unknown_length_are_biases(run):
    params = {"w": ones(5, 8, 8), "b": ones(5, 8), "o": ones(8, 3)}
    graph = ghn_jax.trace(lambda p, x, n: run(p, x, n) @ p["o"], params, ones(4, 8), jnp.int32(3), strict=True)
    roles = {tensor.name: (tensor.role.value, tensor.shape) for tensor in graph.tensors}
    assert roles == {"w": ("weight", (8, 40)), "b": ("bias", (40,)), "o": ("class_weight", (8, 3))}


def test_a_row_of_a_table_of_positions_is_none_of_biases():
    params = {"w": ones(8, 8), "table": ones(5, 8), "o": ones(8, 3)}

    def run(p, x, start):
        return (x @ p["w"] + jax.lax.dynamic_index_in_dim(p["table"], start, keepdims=False)) @ p["o"]

    graph = ghn_jax.trace(run, params, ones(4, 8), jnp.int32(3), state=["2"])
    assert {tensor.name: tensor.role.value for tensor in graph.tensors}["table"] == "position"


def test_a_foreign_primitive_with_the_name_of_a_loop_is_unknown():
    for name in ("scan", "while", "cond"):
        primitive = Primitive(name)
        primitive.def_abstract_eval(lambda x: x)
        graph = ghn_jax.trace(lambda p, x, own=primitive: own.bind(x @ p["w"]), {"w": ones(4, 10)}, ones(2, 4))
        assert graph.tree.unsupported == (f"{name!r} in the model",)


def test_strict_refuses_the_same_everywhere():
    def deep(p, x):
        for _ in range(1200):
            x = jax.nn.relu(x @ p["w"]) + x
        return x @ p["o"]

    with pytest.raises(ghn_jax.TraceError, match="2402 nodes is too large: expected at most 2303"):
        ghn_jax.trace(deep, {"w": ones(4, 4), "o": ones(4, 10)}, ones(2, 4), strict=True)

    def unknown(p, x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((2, 8), jnp.float32), x @ p["w"]) @ p["o"]

    params = {"w": ones(4, 8), "o": ones(8, 10)}
    with pytest.raises(ghn_jax.TraceError, match="unknown operation 'pure_callback'"):
        ghn_jax.trace(unknown, params, ones(2, 4), strict=True)
    with pytest.raises(ghn_jax.GraphError, match="unknown operation 'pure_callback'"):
        ghn_jax.predict_params(ghn_jax.trace(unknown, params, ones(2, 4)), strict=True)
