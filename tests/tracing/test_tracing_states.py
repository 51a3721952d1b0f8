"""What is no parameter: states, keys, tables that no training changes; what is an input, and what the output."""

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

GHN = random_ghn(SMALL)


def ones(*sizes):
    return jnp.ones(sizes)


def states(graph):
    return {row.name: row.reasons[0] for row in ghn_jax.report(graph).of(Verdict.STATE)}


def notes(graph):
    return " ".join(graph.tree.notes)


NORM = {"w": ones(4, 8), "scale": ones(8), "shift": ones(8), "o": ones(8, 10)}
RUNNING = {"mean": ones(8) * 3, "var": ones(8) * 3, "count": jnp.int32(5)}


def plain(x, p, s):
    return (x - s["mean"]) / jnp.sqrt(s["var"] + 1e-5) * p["scale"] + p["shift"]


def factor_first(x, p, s):
    factor = jax.lax.rsqrt(s["var"] + 1e-3) * p["scale"]
    return x * factor + (p["shift"] - s["mean"] * factor)


def powers(x, p, s):
    return p["scale"] * (x - s["mean"]) * (s["var"] + 1e-3) ** -0.5 + p["shift"]


def debiased(x, p, s):
    share = 1 - 0.99 ** s["count"].astype(jnp.float32)
    return (x - s["mean"] / share) * jax.lax.rsqrt(jnp.maximum(s["var"] / share, 0) + 1e-3) * p["scale"] + p["shift"]


def never_negative(x, p, s):
    return (x - s["mean"]) / (jnp.sqrt(jnp.abs(s["var"])) + 1e-5) * p["scale"] + p["shift"]


def logarithms(x, p, s):
    return (x - s["mean"]) * jnp.exp(-0.5 * jnp.log(s["var"] + 1e-3)) * p["scale"] + p["shift"]


def binary_logarithms(x, p, s):
    return (x - s["mean"]) / jnp.exp2(jnp.log2(s["var"] + 1e-3) / 2) * p["scale"] + p["shift"]


def root_of_reciprocal(x, p, s):
    return (x - s["mean"]) * jnp.sqrt(1 / (s["var"] + 1e-3)) * p["scale"] + p["shift"]


def two_roots(x, p, s):
    return (x - s["mean"]) * jnp.square((s["var"] + 1e-3) ** -0.25) * p["scale"] + p["shift"]


def averaged(x, p, s):
    mean, var = 0.9 * s["mean"] + 0.1 * x.mean(0), 0.9 * s["var"] + 0.1 * x.var(0)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["scale"] + p["shift"]


def moved(x, p, s):
    mean = s["mean"] + 0.1 * (x.mean(0) - s["mean"])
    var = s["var"] - 0.1 * (s["var"] - x.var(0))
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["shift"]


SPELLINGS = {
    "plain": plain,
    "factor first": factor_first,
    "powers": powers,
    "debiased": debiased,
    "never negative": never_negative,
    "logarithms": logarithms,
    "binary logarithms": binary_logarithms,
    "root of the reciprocal": root_of_reciprocal,
    "two roots": two_roots,
    "averaged": averaged,
    "moved": moved,
}


def normed(norm):
    return lambda p, s, x: jax.nn.relu(norm(x @ p["w"], p, s)) @ p["o"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_running_statistics_wherever_they_are(spelling):
    run = normed(SPELLINGS[spelling])
    x = ones(2, 4)
    graphs = {
        "argument": ghn_jax.trace(run, NORM, RUNNING, x, strict=True),
        "list": ghn_jax.trace(
            lambda p, s, x: run(p, dict(zip(sorted(RUNNING), s, strict=True)), x),
            NORM, [RUNNING[name] for name in sorted(RUNNING)], x, strict=True,
        ),
        "returned": ghn_jax.trace(
            lambda p, s, x: (run(p, s, x), {**s, "mean": s["mean"] + x.mean()}), NORM, RUNNING, x, strict=True
        ),
        "closure": ghn_jax.trace(lambda p, x: run(p, RUNNING, x), NORM, x, strict=True),
        "beside": ghn_jax.trace(lambda v, x: run(v["params"], v["stats"], x), {"params": NORM, "stats": RUNNING}, x),
        "mixed": ghn_jax.trace(lambda v, x: run(v, v, x), {**NORM, **RUNNING}, x, strict=True),
    }  # fmt: skip
    for place, graph in graphs.items():
        assert counts(graph) == {"input": 1, "conv": 2, "bn": 1}, place
        roles = {tensor.name.split("/")[-1]: tensor.role.value for tensor in graph.tensors}
        assert roles == {"w": "weight", "scale": "norm_weight", "shift": "bias", "o": "class_weight"}, place
    for place in ("argument", "list", "returned"):
        assert "is a state" in notes(graphs[place])
    assert set(states(graphs["beside"])) == {"stats/count", "stats/mean", "stats/var"}
    values = predict_params(graphs["beside"], GHN)
    assert values["stats"]["mean"].tolist() == values["stats"]["var"].tolist() == [3.0] * 8
    assert values["stats"]["count"] == 5 and not np.allclose(values["params"]["scale"], 1)


DIVISORS = {
    "root of a sum": lambda h, p: h / jnp.sqrt(p["scale"] + jnp.square(h)),
    "logarithm": lambda h, p: h * jnp.exp(-0.5 * p["scale"]),
    "power": lambda h, p: h * (1 + p["scale"] ** 2) ** -1.0,
    "average": lambda h, p: h / (0.9 * p["scale"] + 0.1 * h.mean(0)),
}


@pytest.mark.parametrize("divisor", DIVISORS)
def test_what_divides_otherwise_is_no_running_variance(divisor):
    run = normed(lambda h, p, _: DIVISORS[divisor](h, p) + p["shift"])
    graph = ghn_jax.trace(lambda p, x: run(p, None, x), NORM, ones(2, 4))
    assert states(graph) == {}


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3), use_bias=False)(x))
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


RETURNED = {
    "beside the output": lambda output, states: (output, states),
    "one collection": lambda output, states: (output, dict(states["batch_stats"])),
    "in a dictionary": lambda output, states: {"logits": output, "batch_stats": states["batch_stats"]},
}


@pytest.mark.parametrize("kind", RETURNED)
def test_running_statistics_among_the_parameters_that_come_back(kind):
    """As in the models of transformers, whose `params` hold them; they are no outputs of the model."""

    def run(variables, x):
        return RETURNED[kind](*Normed().apply(variables, x, mutable=["batch_stats"]))

    x = ones(2, 8, 8, 3)
    variables = Normed().init(jax.random.key(0), x)
    graph = ghn_jax.trace(run, variables, x, strict=True)
    assert counts(graph) == {"input": 1, "conv": 2, "bn": 1, "glob_avg": 1, "bias": 1}
    params = predict_params(graph, GHN)
    alone = predict_params(ghn_jax.trace(Normed(), x, strict=True), GHN)
    jax.tree.map(np.testing.assert_array_equal, params["params"], alone)
    jax.tree.map(np.testing.assert_array_equal, params["batch_stats"], variables["batch_stats"])


def test_batch_norm_of_two_steps_over_a_mapped_axis():
    def run(p, x):
        def one(x):
            h = jnp.einsum("hwc,cd->dhw", x, p["w"])
            mean = jax.lax.pmean(h.mean((1, 2)), "batch")[:, None, None]
            variance = jax.lax.pmean(jnp.square(h - mean).mean((1, 2)), "batch")[:, None, None]
            y = (h - mean) / jnp.sqrt(variance + 1e-5) * p["scale"][:, None, None] + p["shift"][:, None, None]
            return jax.nn.relu(y).mean((1, 2)) @ p["o"]

        return jax.vmap(one, axis_name="batch")(x)

    assert counts(ghn_jax.trace(run, NORM, ones(2, 6, 6, 4), strict=True)) == {
        "input": 1, "conv": 2, "bn": 1, "glob_avg": 1
    }  # fmt: skip


TABLE = {"table": 2 * ones(4, 6), "w": ones(6, 8), "o": ones(8, 10)}
FIXED = {
    "features": lambda p, x, fixed: jnp.concatenate(
        [jnp.sin(x @ fixed(p["table"])), jnp.cos(x @ fixed(p["table"]))], 0
    ),
    "sum": lambda p, x, fixed: x @ jnp.ones((4, 6)) + fixed(p["table"])[:1],
    "product": lambda p, x, fixed: (x @ jnp.ones((4, 6))) * fixed(p["table"]).mean(0),
}


@pytest.mark.parametrize("use", ["features", "sum", "product"])
def test_tables_that_no_training_changes(use):
    def run(p, x, fixed=jax.lax.stop_gradient):
        return jax.nn.relu(FIXED[use](p, x, fixed) @ p["w"]) @ p["o"]

    def given(p, x):
        return run(p, x, fixed=lambda table: table)

    for graph in (
        ghn_jax.trace(run, TABLE, ones(2, 4), strict=True),
        ghn_jax.trace(given, TABLE, ones(2, 4), strict=True, state=["table"]),
    ):
        assert counts(graph) == {"input": 1, "conv": 2}
        assert list(states(graph)) == ["table"]
        assert predict_params(graph, GHN)["table"].tolist() == TABLE["table"].tolist()


def test_matrices_in_collections_are_functions_of_the_input():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            matrix = self.variable("constants", "matrix", lambda: jnp.ones((3, 8))).value
            return nn.Dense(10)(nn.relu(nn.Dense(8)(jnp.sin(x @ matrix))))

    class Nnx(nnx.Module):
        def __init__(self):
            self.matrix = nnx.Variable(jnp.ones((3, 8)))
            self.first, self.last = nnx.Linear(8, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 10, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.last(nnx.relu(self.first(jnp.sin(x @ self.matrix[...]))))

    for model in (Linen(), Nnx()):
        assert counts(ghn_jax.trace(model, ones(2, 3), strict=True)) == {"input": 1, "conv": 2, "bias": 2}


def test_norms_that_are_folded_into_kernels():
    def folded(p, s, x):
        factor = p["scale"] * jax.lax.rsqrt(s["var"] + 1e-3)
        return jax.nn.relu(x @ (p["w"] * factor) + p["shift"] - s["mean"] * factor) @ p["o"]

    def convolved(p, s, x):
        factor = p["scale"] / jnp.sqrt(s["var"] + 1e-3)
        kernel = (p["w"].T * factor[:, None])[:, :, None, None]
        y = jax.lax.conv_general_dilated(x[:, :, None, None], kernel, (1, 1), "SAME")
        return jax.nn.relu(y[..., 0, 0] + (p["shift"] - s["mean"] * factor)) @ p["o"]

    for run in (folded, convolved):
        graph = ghn_jax.trace(run, NORM, RUNNING, ones(2, 4))
        assert counts(graph) == {"input": 1, "conv": 2, "bias": 1}
        assert [tensor.name for tensor in graph.tensors] == ["w", "shift", "o"]
        assert graph.tree.shortcomings == ["'scale': it only changes 'w'"]


class Stateful(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.head = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.scale = nnx.Variable(ones(8))

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.linear(x)) * self.scale[...])))


def test_variables_of_nnx_are_what_their_types_say():
    graphdef, params, others = nnx.split(Stateful(nnx.Rngs(0)), nnx.Param, ...)
    whole = nnx.split(Stateful(nnx.Rngs(0)))

    def run(params, others, x):
        return nnx.merge(graphdef, params, others)(x)

    graphs = {
        "module": ghn_jax.trace(Stateful(nnx.Rngs(0)), ones(2, 4), strict=True),
        "argument": ghn_jax.trace(run, params, others, ones(2, 4), strict=True),
        "whole": ghn_jax.trace(lambda state, x: nnx.merge(whole[0], state)(x), whole[1], ones(2, 4), strict=True),
    }
    for place, graph in graphs.items():
        assert counts(graph) == {"input": 1, "conv": 2, "bias": 2, "bn": 1}, place
    assert "of type BatchStat, no Param" in notes(graphs["argument"])
    assert states(graphs["whole"])["scale"] == "of type Variable, no Param"


def test_counters_and_keys_that_only_make_random_numbers():
    def run(p, s, x):
        noise = jax.random.normal(jax.random.fold_in(s["key"], s["count"]), x.shape)
        return (x + noise) @ p["w"]

    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        state = {"key": key, "count": jnp.uint32(3)}
        graph = ghn_jax.trace(run, {"w": ones(4, 10)}, state, ones(2, 4), strict=True)
        assert counts(graph) == {"input": 1, "conv": 1}
        assert notes(graph) == "argument 1 is a state: it only makes random numbers; a random key"
    step = ghn_jax.trace(
        lambda p, x, step: run(p, {"key": jax.random.key(0), "count": step}, x) * (1 + step), {"w": ones(4, 10)},
        ones(2, 4), jnp.int32(1), strict=True,
    )  # fmt: skip
    assert counts(step) == {"input": 2, "conv": 1, "cse": 1}


def test_a_teacher_under_stop_gradient_is_a_state():
    def net(p, x):
        return jax.nn.relu(x @ p["w"]) @ p["o"]

    params = {"w": ones(4, 8), "o": ones(8, 10)}
    graph = ghn_jax.trace(lambda p, t, x: (net(p, x), jax.lax.stop_gradient(net(t, x))), params, params, ones(2, 4))
    assert counts(graph) == {"input": 1, "conv": 2} and notes(graph) == "argument 1 is a state: under stop_gradient"
    frozen = ghn_jax.trace(
        lambda p, batch: net(p, jax.lax.stop_gradient(jnp.tanh(batch["x"]))), params, {"x": ones(2, 4)}, strict=True
    )
    assert counts(frozen) == {"input": 1, "conv": 2}


def test_keys_and_integers_among_parameters_and_arguments():
    def run(p, key, x):
        return (x + jax.random.normal(key, x.shape)) @ p["w"]

    w = {"w": ones(4, 10)}
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        graph = ghn_jax.trace(run, w, key, ones(2, 4), strict=True)
        assert counts(graph) == {"input": 1, "conv": 1} and notes(graph) == "argument 1 is a state: a random key"
        held = {**w, "key": key, "step": jnp.int32(3), "flag": jnp.array(True)}
        graph = ghn_jax.trace(lambda p, x: jnp.where(p["flag"], run(p, p["key"], x), 0), held, ones(2, 4), strict=True)
        assert set(states(graph)) == {"key", "step", "flag"}
        values = predict_params(graph, GHN)
        assert values["key"].dtype == key.dtype and values["step"] == 3 and bool(values["flag"])
        assert not np.allclose(values["w"], 1)


def test_tokens_of_two_positions_are_no_key():
    run = lambda p, tokens: p["table"][tokens].mean(1) @ p["o"]  # noqa: E731
    graph = ghn_jax.trace(run, {"table": ones(9, 8), "o": ones(8, 10)}, jnp.ones((3, 2), jnp.uint32), strict=True)
    assert counts(graph) == {"input": 1, "conv": 2, "glob_avg": 1}


def test_inputs_in_a_closure():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Dense(10)(nn.LayerNorm()(nn.Embed(9, 8)(tokens)).mean(1))

    tokens = jnp.ones((2, 5), jnp.int32)
    params = jax.eval_shape(Net().init, jax.random.key(0), tokens)["params"]
    closed = ghn_jax.trace(lambda p: Net().apply({"params": p}, tokens), params)
    given = ghn_jax.trace(lambda p, tokens: Net().apply({"params": p}, tokens), params, tokens)
    assert counts(closed) == counts(given) == {"input": 1, "conv": 2, "bias": 1, "ln": 1, "glob_avg": 1}
    assert (
        "no input: arrays that the function closes over are taken for it: int32[2,5]" in ghn_jax.report(closed).remarks
    )
    with pytest.raises(ghn_jax.TraceError, match="no input: arrays"):
        ghn_jax.trace(lambda p: Net().apply({"params": p}, tokens), params, strict=True)
    with pytest.raises(ghn_jax.TraceError, match="no input: none was given"):
        ghn_jax.trace(lambda p: jax.nn.relu(p["a"]) @ p["kernel"], {"a": ones(2, 4), "kernel": ones(4, 8)}, strict=True)


OUTPUTS = {
    "names": (lambda aux, main: {"aux": aux, "logits": main}, True),
    "order": (lambda aux, main: (main, aux), True),
    "depth": (lambda aux, main: {"a": aux, "b": main}, False),
    "nested": (lambda aux, main: {"a": {"hidden": aux}, "b": {"prediction": main}}, True),
    "prefix": (lambda aux, main: {"boxes": aux, "cls_logits": main}, True),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_class_layer_is_that_of_the_main_output(kind):
    pack, same_depth = OUTPUTS[kind]

    def run(p, x):
        h = jax.nn.relu(x @ p["w"])
        deeper = h if same_depth else jax.nn.relu(h @ p["v"])
        return pack(h @ p["a"], deeper @ p["z"])

    params = {"w": ones(4, 8), "v": ones(8, 8), "a": ones(8, 3), "z": ones(8, 10)}
    roles = {tensor.name: tensor.role.value for tensor in ghn_jax.trace(run, params, ones(2, 4)).tensors}
    assert roles["z"] == "class_weight" and roles["a"] == "weight"


def test_axis_names_that_nobody_binds():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train, axis_name="batch")(nn.Dense(8)(x))
            return jax.lax.pmean(nn.Dense(10)(nn.relu(x)), "model")

    images = jax.random.normal(jax.random.key(0), (16, 4))
    graph = ghn_jax.trace(Net(), images, train=True, strict=True)
    assert counts(graph) == {"input": 1, "conv": 2, "bias": 2, "bn": 1}

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, axis_name="batch")(x)

    stats = ghn_jax.calibrate(Norm(), {"BatchNorm_0": {"scale": ones(4), "bias": ones(4)}}, [images])
    np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], images.mean(0), atol=1e-6)
    module = nnx.BatchNorm(4, axis_name="batch", rngs=nnx.Rngs(0))
    assert counts(ghn_jax.trace(module, images, strict=True)) == {"input": 1, "bn": 1}
    nnx.update(module, ghn_jax.calibrate(module, nnx.state(module, nnx.Param), [images]))
    np.testing.assert_allclose(module.mean[...], images.mean(0), atol=1e-6)


def test_constants_that_a_model_wants_to_know():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for rate in jnp.linspace(0, 0.1, 2):
                x = nn.Dropout(rate.item(), deterministic=True)(nn.relu(nn.Dense(8)(x)))
            self.param("idle", nn.initializers.normal(), (3,))
            return nn.Dense(10)(x)

    graph = ghn_jax.trace(Net(), ones(2, 4))
    assert counts(graph) == {"input": 1, "conv": 3, "bias": 3}
    own = predict_params(graph, GHN)
    assert set(own) == {"Dense_0", "Dense_1", "Dense_2", "idle"}
    assert counts(ghn_jax.trace(Net().bind({"params": own}), ones(2, 4))) == counts(graph)
    with pytest.raises(ghn_jax.TraceError, match="Concretization|Traced|TracerBool"):
        ghn_jax.trace(lambda p, x: x @ p["w"] if x.sum() > 0 else x, {"w": ones(4, 4)}, ones(2, 4))
