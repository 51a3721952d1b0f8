"""Parameters that go through something before they are used: the value that is used is the predicted one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from random_ghns import SMALL, random_ghn
from traced import counts

import ghn_jax
from ghn_jax.prediction.predict import predict_params
from ghn_jax.prediction.report import Verdict
from ghn_jax.runtime import counted

GHN = random_ghn(SMALL)


def ones(*sizes):
    return jnp.ones(sizes)


def left(graph):
    return {row.name: row.reasons[0] for row in ghn_jax.report(graph).of(Verdict.INITIALISED)}


def normed(scale):
    def run(p, x):
        x = x @ p["w"]
        x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
        return jax.nn.relu(x * scale(p["g"])) @ p["o"]

    return run


SCALES = {
    "itself": lambda g: g,
    "one more": lambda g: 1 + g,
    "exponential": jnp.exp,
    "softplus": jax.nn.softplus,
    "gate": lambda g: 2 * jax.nn.sigmoid(g),
    "reciprocal": lambda g: 1 / g,
    "square": lambda g: g**2,
    "two steps": lambda g: 0.5 - 3 * g,
    "reshaped": lambda g: (1 + g.reshape(2, 4)).reshape(8),
    "root": jnp.sqrt,
}


def test_scales_in_all_spellings_have_the_values_of_norm_weights():
    params = {"w": ones(4, 8), "g": jnp.zeros(8), "o": ones(8, 10)}
    effective = {}
    for name, scale in SCALES.items():
        graph = ghn_jax.trace(normed(scale), params, ones(2, 4), strict=True)
        assert counts(graph) == {"input": 1, "conv": 2, "ln": 1}, name
        effective[name] = scale(predict_params(graph, GHN)["g"])
    for name, value in effective.items():
        np.testing.assert_allclose(value, effective["itself"], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(("dtype", "precision"), [(jnp.bfloat16, 2**-7), (jnp.float16, 2**-10)])
@pytest.mark.parametrize("name", ["one more", "exponential", "softplus", "gate", "at least"])
def test_scales_of_half_precision_too(name, dtype, precision):
    scale = {**SCALES, "at least": lambda g: jnp.maximum(g, 0.1)}[name]
    params = {"w": ones(4, 8), "g": jnp.zeros(8, dtype), "o": ones(8, 10)}
    expected = predict_params(ghn_jax.trace(normed(SCALES["itself"]), params, ones(2, 4)), GHN)["g"]
    found = predict_params(ghn_jax.trace(normed(scale), params, ones(2, 4), strict=True), GHN)["g"]
    assert found.dtype == dtype
    used, expected = scale(found.astype(jnp.float32)), expected.astype(jnp.float32)
    np.testing.assert_allclose(used, expected, rtol=2 * precision)


def test_parts_of_scales_are_changed_before_they_are_joined():
    params = {"w": ones(4, 8), "g": jnp.zeros(4), "h": jnp.zeros(4), "o": ones(8, 10)}
    found = []
    for change in (lambda part: part, lambda part: 1 + part):

        def run(p, x, change=change):
            joined = jnp.concatenate([change(p["g"]), change(p["h"])])
            return normed(lambda _: joined)({**p, "g": joined}, x)

        values = predict_params(ghn_jax.trace(run, params, ones(2, 4), strict=True), GHN)
        found.append([change(values["g"]), change(values["h"])])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_what_divides_has_the_inverse_of_a_norm_weight():
    params = {"w": ones(4, 8), "g": ones(8), "o": ones(8, 10)}
    uses = {
        "product": (lambda x, g: x * g, lambda g: g),
        "quotient": (lambda x, g: x / g, lambda g: 1 / g),
        "quotient of a sum": (lambda x, g: x / (g + 0.5), lambda g: 1 / (g + 0.5)),
        "quotient of a root": (lambda x, g: x / jnp.exp(g), lambda g: jnp.exp(-g)),
    }
    effective = {}
    for name, (use, effect) in uses.items():

        def run(p, x, use=use):
            x = x @ p["w"]
            x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
            return jax.nn.relu(use(x, p["g"])) @ p["o"]

        graph = ghn_jax.trace(run, params, ones(2, 4), strict=True)
        assert counts(graph) == {"input": 1, "conv": 2, "ln": 1}, name
        effective[name] = effect(predict_params(graph, GHN)["g"])
    for name, value in effective.items():
        np.testing.assert_allclose(value, effective["product"], rtol=1e-4, err_msg=name)


def test_what_is_subtracted_is_the_negative_of_a_bias():
    params = {"w": ones(4, 8), "b": jnp.zeros(8), "o": ones(8, 10)}
    uses = {
        "sum": (lambda x, b: x + b, lambda b: b),
        "difference": (lambda x, b: x - b, lambda b: -b),
        "difference of a multiple": (lambda x, b: x - 3 * b, lambda b: -3 * b),
        "from a parameter": (lambda x, b: b - x, lambda b: b),
    }
    effective = {}
    for name, (use, effect) in uses.items():

        def run(p, x, use=use):
            return jax.nn.relu(use(x @ p["w"], p["b"])) @ p["o"]

        graph = ghn_jax.trace(run, params, ones(2, 4), strict=True)
        assert counts(graph) == {"input": 1, "conv": 2, "bias": 1}, name
        effective[name] = effect(predict_params(graph, GHN)["b"])
    for name, value in effective.items():
        np.testing.assert_allclose(value, effective["sum"], rtol=1e-5, atol=1e-7, err_msg=name)


def test_the_sign_of_a_scale_belongs_to_what_it_scales():
    params = {"w": ones(4, 8), "g": ones(8), "o": ones(8, 10)}
    plain, negative = (
        predict_params(ghn_jax.trace(normed(scale), params, ones(2, 4), strict=True), GHN)["g"]
        for scale in (SCALES["itself"], lambda g: -2 * g)
    )
    np.testing.assert_allclose(2 * negative, plain, rtol=1e-5)


SHIFTS = {
    "itself": lambda b: b,
    "bounded": jnp.tanh,
    "doubled": lambda b: -2 * b,
    "first half": lambda b: jnp.where(np.arange(8) < 4, b, 0),
}


def test_shifts_have_the_values_of_biases():
    def shifted(shift):
        return lambda p, x: jax.nn.relu(x @ p["w"] + shift(p["b"])) @ p["o"]

    params = {"w": ones(4, 8), "b": jnp.zeros(8), "o": ones(8, 10)}
    effective = {}
    for name, shift in SHIFTS.items():
        effective[name] = shift(
            predict_params(ghn_jax.trace(shifted(shift), params, ones(2, 4), strict=True), GHN)["b"]
        )
        np.testing.assert_allclose(effective[name][:4], effective["itself"][:4], rtol=1e-4, err_msg=name)
    assert (effective["first half"][4:] == 0).all()
    for shift in (jnp.exp, jax.nn.softplus, jnp.square):  # biases may be negative
        graph = ghn_jax.trace(shifted(shift), params, ones(2, 4))
        assert list(left(graph)) == ["b"]
        assert predict_params(graph, GHN)["b"].tolist() == [0] * 8


def test_scales_that_no_value_makes_a_norm_weight_are_left():
    params = {"w": ones(4, 8), "g": jnp.zeros(8), "o": ones(8, 10)}
    for name, scale in {"softmax": jax.nn.softmax, "sign": jnp.sign, "gate": jax.nn.sigmoid}.items():
        graph = ghn_jax.trace(normed(scale), params, ones(2, 4))
        assert list(left(graph)) == ["g"], name
        assert predict_params(graph, GHN)["g"].tolist() == [0.0] * 8


def test_scales_of_stacked_layers():
    def run(p, x):
        def layer(x, q):
            return x + jax.nn.relu(x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True)) * (1 + q["g"]) @ q["w"]), None

        return jax.lax.scan(layer, x, p)[0]

    params = {"g": jnp.zeros((3, 8)), "w": ones(3, 8, 8)}
    changed = predict_params(ghn_jax.trace(run, params, ones(2, 8), strict=True), GHN)
    plain = predict_params(ghn_jax.trace(lambda p, x: run({**p, "g": p["g"] - 1}, x), params, ones(2, 8)), GHN)
    np.testing.assert_allclose(changed["g"] + 1, plain["g"], rtol=1e-5)


def kernel_of(change):
    return lambda p, x: jax.nn.relu(x @ change(p)) @ p["o"]


KERNELS = {
    "itself": lambda p: p["w"],
    "weight norm": lambda p: p["g"] * p["w"] / jnp.linalg.norm(p["w"], axis=0),
    "exponential norm": lambda p: jnp.exp(p["s"])[None] * p["w"] / jnp.linalg.norm(p["w"], axis=0),
    "positive norm": lambda p: p["w"] * (jax.nn.softplus(p["s"]) / jnp.linalg.norm(p["w"], axis=0)),
    "masked": lambda p: jnp.where(np.ones((4, 8), bool), p["w"], 0),
    "masked by a state": lambda p: jnp.where(p["mask"], p["w"], p["zero"]),
    "norm last": lambda p: p["w"] * (p["g"] * jax.lax.rsqrt(jnp.square(p["w"]).sum(0, keepdims=True))),
    "equalised": lambda p: p["w"] * np.float32(0.3),
    "low rank": lambda p: p["w"] + 2 * p["a"] @ p["b"],
    "sum": lambda p: (p["w"] - p["c"]) / 4,
    "half again": lambda p: p["w"] + 0.5 * p["w"],
}


def test_kernels_in_all_spellings_have_the_predicted_values():
    params = {"w": ones(4, 8), "g": ones(8), "a": ones(4, 2), "b": ones(2, 8), "c": ones(4, 8), "o": ones(8, 10)}
    params |= {"s": jnp.zeros(8), "mask": ones(4, 8) > 0, "zero": jnp.float32(0)}
    effective = {}
    for name, change in KERNELS.items():
        graph = ghn_jax.trace(kernel_of(change), params, ones(2, 4))
        assert counts(graph) == {"input": 1, "conv": 2}, name
        shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
        assert shapes == {"w": (4, 8), "o": (8, 10)}, name
        effective[name] = change(predict_params(graph, GHN))
    for name, value in effective.items():
        np.testing.assert_allclose(value, effective["itself"], rtol=1e-4, atol=1e-6, err_msg=name)


def test_kernels_that_no_value_makes_the_predicted_one_are_left():
    params = {"w": ones(4, 8), "o": ones(8, 10)}
    for change in (
        jnp.exp,
        jnp.abs,
        jax.nn.relu,
        lambda w: jnp.where(w > 0, w, 0),
        jax.nn.softmax,
        lambda w: jnp.cumsum(w, 0),
        lambda w: jnp.fft.fft(w).real,
    ):
        graph = ghn_jax.trace(lambda p, x, change=change: jax.nn.relu(x @ change(p["w"])) @ p["o"], params, ones(2, 4))
        assert list(left(graph)) == ["w"]
        assert (predict_params(graph, GHN)["w"] == 1).all()


def test_kernels_whose_elements_are_tied_to_each_other_are_left():
    """A predicted kernel is not symmetric; predicted as if it were free, it would have another scale."""
    params = {"w": ones(8, 8), "c": ones(8, 8), "o": ones(8, 10)}
    for change in (
        lambda p: (p["w"] + p["w"].T) / 2,
        lambda p: p["w"] - p["w"].T + jnp.eye(8),
        lambda p: p["w"] + p["w"][::-1],
        lambda p: p["c"] + p["w"] + p["w"].T,
    ):
        graph = ghn_jax.trace(lambda p, x, change=change: jax.nn.relu(x @ change(p)) @ p["o"], params, ones(2, 8))
        assert "no values of it give the predicted ones" in left(graph)["w"]
        assert (predict_params(graph, GHN)["w"] == 1).all()


def test_spectral_and_weight_normalisation_are_layers_of_their_own_kernels():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.SpectralNorm(nn.Dense(8, name="a"))(x, update_stats=True))
            return nn.WeightNorm(nn.Dense(10, name="b"))(x)

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.a = nnx.SpectralNorm(nnx.Linear(4, 8, rngs=rngs), rngs=rngs)
            self.b = nnx.WeightNorm(nnx.Linear(8, 10, rngs=rngs), rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.relu(self.a(x)))

    def power_iteration(p, u, x):
        v = u @ p["a"].T
        v = jax.lax.stop_gradient(v / jnp.linalg.norm(v))
        u = jax.lax.stop_gradient(v @ p["a"] / jnp.linalg.norm(v @ p["a"]))
        return jax.nn.relu(x @ (p["a"] / (v @ p["a"] @ u))) @ p["b"], u

    bias = {"bias": 2}
    cases = [
        (ghn_jax.trace(Linen(), ones(2, 4), strict=True), bias),
        (ghn_jax.trace(Nnx(nnx.Rngs(0)), ones(2, 4), strict=True), bias),
        (ghn_jax.trace(power_iteration, {"a": ones(4, 8), "b": ones(8, 10)}, ones(8), ones(2, 4), strict=True,
                       state=[1]), {}),
    ]  # fmt: skip
    for graph, more in cases:
        assert counts(graph) == {"input": 1, "conv": 2, **more}
        assert sorted(t.shape for t in graph.tensors if len(t.shape) == 2) == [(4, 8), (8, 10)]
    predicted = predict_params(cases[0][0], GHN)
    kernel, scale = predicted["b"]["kernel"], predicted["WeightNorm_0"]["b/kernel/scale"]
    np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=0), scale, rtol=1e-5)


COMPLEX = {
    "sum": lambda p: p["re"] + 1j * p["im"],
    "pair": lambda p: jax.lax.complex(p["re"], p["im"]),
    "last axis": lambda p: jnp.stack([p["re"], p["im"]], -1)[..., 0] + 1j * p["im"],
}


@pytest.mark.parametrize("spelling", ["sum", "pair"])
def test_complex_kernels_of_two_real_ones(spelling):
    def run(p, x):
        spectrum = jnp.einsum("bki,io->bko", jnp.fft.rfft(x, axis=1), COMPLEX[spelling](p))
        return jnp.fft.irfft(spectrum, axis=1).mean(1) @ p["o"]

    graph = ghn_jax.trace(run, {"re": ones(4, 8), "im": ones(4, 8), "o": ones(8, 10)}, ones(2, 6, 4), strict=True)
    assert counts(graph) == {"input": 1, "conv": 2, "glob_avg": 1}
    assert {tensor.name: tensor.shape for tensor in graph.tensors} == {"re": (4, 8), "im": (4, 8), "o": (8, 10)}
    split = {"c": ones(4, 8, 2), "o": ones(8, 10)}
    graph = ghn_jax.trace(
        lambda p, x: (x @ (p["c"][..., 0] + 1j * p["c"][..., 1])).real @ p["o"], split, ones(2, 4), strict=True
    )
    assert [tensor.name for tensor in graph.tensors][:2] == ["c[0]", "c[1]"]


SLOPES = {
    "select": lambda x, a: jnp.where(x >= 0, x, a * x),
    "two halves": lambda x, a: jax.nn.relu(x) - a * jax.nn.relu(-x),
    "larger and smaller": lambda x, a: jnp.maximum(x, 0) + a * jnp.minimum(x, 0),
    "swish": lambda x, a: x * jax.nn.sigmoid(a * x),
    "snake": lambda x, a: x + jnp.square(jnp.sin(a * x)) / a,
    "magnitude": lambda x, a: (1 + a) * x + (1 - a) * jnp.abs(x),
    "sharpness": lambda x, a: jax.nn.softplus(a * x) / a,
}


def test_slopes_of_activation_functions_keep_their_values():
    for name, function in SLOPES.items():
        for slope in (jnp.full(8, 0.25), jnp.float32(0.25), jnp.full(1, 0.25)):
            params = {"w": ones(4, 8), "slope": slope, "o": ones(8, 10)}

            def run(p, x, function=function):
                return function(x @ p["w"], p["slope"]) @ p["o"]

            graph = ghn_jax.trace(run, params, ones(2, 4))
            assert counts(graph) == {"input": 1, "conv": 2}, name
            assert list(left(graph)) == ["slope"]
    assert (predict_params(graph, GHN)["slope"] == 0.25).all()


def test_temperatures_and_offsets_of_scores_keep_their_values():
    def pairs(p, a, b):
        return (a @ p["u"]) @ (b @ p["w"]).T * jnp.exp(p["t"]) + p["b"]

    def attention(p, x, _):
        q, k = x @ p["u"], x @ p["w"]
        return jax.nn.softmax(q @ k.T / p["t"] + p["b"]) @ x

    def logits(p, x, _):
        return p["t"] * (jax.nn.relu(x @ p["u"]) @ p["w"].T) - p["b"]

    def heads(p, x, _):
        q, k = ((x @ p[name]).reshape(2, 2, 4) for name in ("u", "w"))
        scores = jnp.einsum("qhd,khd->hqk", q, k) * jnp.exp(jnp.broadcast_to(p["t"], (2, 1, 1)))
        sinks = jnp.broadcast_to(p["b"], (2, 2, 1))
        return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(jnp.concatenate([scores, sinks], -1))[..., :2], q)

    def each_head(p, x, _):
        return heads(p | {"t": p["t"] * ones(2, 1, 1)}, x, _)

    for run in (pairs, attention, logits, heads, each_head):
        params = {"u": ones(4, 8), "w": ones(4, 8), "t": jnp.float32(2.3), "b": jnp.full((1,), -10.0)}
        graph = ghn_jax.trace(run, params, ones(2, 4), ones(2, 4))
        assert set(left(graph)) == {"t", "b"}
        values = predict_params(graph, GHN)
        assert values["t"] == np.float32(2.3) and values["b"] == -10


def test_scales_far_from_the_initial_ones_are_reported():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            gamma = self.param("gamma", nn.initializers.constant(1e-4), (8,))
            return nn.Dense(10)(gamma * nn.relu(nn.Dense(8)(x)))

    graph = ghn_jax.trace(Net(), ones(2, 4))
    rows = {row.name: " ".join(row.reasons) for row in ghn_jax.report(graph, GHN, scales=True).rows}
    assert "that of the initial values 0.0001" in rows["gamma"]
    assert not any("initial" in rows[name] for name in ("Dense_0/bias", "Dense_1/bias"))
    assert "initial" not in str(ghn_jax.report(graph, GHN))


def test_a_second_prediction_compiles_nothing():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.param("idle", nn.initializers.orthogonal(), (8, 8))
            x = nn.WeightNorm(nn.Dense(8))(x)
            return nn.Dense(10)(x * (1 + self.param("g", nn.initializers.zeros, (8,))))

    graph = ghn_jax.trace(Net(), ones(2, 4))
    predict_params(graph, GHN)
    with counted() as compilations:
        predict_params(graph, GHN)
    assert not compilations


def test_tied_embeddings_have_the_scale_of_an_output_layer():
    def attend(x, table):
        return x @ table.T

    def contract(x, table):
        return jnp.einsum("bsd,vd->bsv", x, table)

    class Tied(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            table = nn.Embed(40, 64)
            return table.attend(nn.LayerNorm()(table(tokens)))

    tokens = jnp.arange(20).reshape(4, 5) % 40
    table = predict_params(ghn_jax.trace(Tied(), tokens, strict=True), GHN)["Embed_0"]["embedding"]
    plain = ghn_jax.trace(
        lambda p, tokens: p["table"][tokens] @ p["o"], {"table": ones(40, 64), "o": ones(64, 10)}, tokens
    )
    untied = predict_params(plain, GHN)["table"]
    assert np.std(untied) / np.std(table) == pytest.approx(8, rel=0.7)

    def one_hot(tokens, table):
        return jax.nn.one_hot(tokens, 40) @ table

    def compared(tokens, table):
        return jnp.einsum("bsv,vd->bsd", jnp.float32(tokens[..., None] == jnp.arange(40)), table)

    def tied(embed, out):
        return lambda p, tokens: out(embed(tokens, p["t"]), p["t"])

    for embed in (lambda tokens, table: table[tokens], one_hot, compared):
        for out in (attend, contract):
            graph = ghn_jax.trace(tied(embed, out), {"t": ones(40, 64)}, tokens)
            assert [tensor.role.value for tensor in graph.tensors] == ["embedding"]
            (correction,) = graph.tree.corrections
            assert correction.function({0: np.float32(8)}) == 1
