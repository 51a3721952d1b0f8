"""The package leaves the process it runs in as it was, and works in a strict one."""

import io
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_ghns import SMALL, random_ghn

import ghn_jax
from ghn_jax import runtime
from ghn_jax.training.prefetch import prefetch


def test_threads_leave_warnings_alone():
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ghn_jax.load("ghn1_fashion_mnist"), range(32)))
    assert list(warnings.filters) == before


def test_strict_settings_of_jax():
    graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
    expected = ghn_jax.predict_params(graph)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.transfer_guard("disallow"),
    ):
        found = ghn_jax.predict_params(graph, ghn_jax.load("ghn2_fashion_mnist"))
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.fixture
def strict_process():
    """Strict settings for all threads, as environment variables make them."""
    strict = {
        "jax_numpy_dtype_promotion": "strict",
        "jax_numpy_rank_promotion": "raise",
        "jax_transfer_guard": "disallow",
        "jax_disable_jit": True,
    }
    before = {name: jax.config.values[name] for name in strict}
    for name, value in strict.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value or ("allow" if name == "jax_transfer_guard" else value))


def test_a_strict_process_measures_and_tries_starts(strict_process):
    edges = (("conv_1x1", 0), ("none", 1))
    network = ghn_jax.Architecture(ghn_jax.Genotype(edges, (2,), edges, (2,)), n_cells=3, C=8, stem_type=1)
    params = ghn_jax.predict_params(ghn_jax.build_graph(network))
    assert 0 <= ghn_jax.measure_accuracy(network, params, "digits", num_images=8) <= 1
    batch = np.zeros((4, 32, 32, 3), np.float32), np.arange(4)
    assert ghn_jax.best_start(network, [batch] * 2, starts=["predicted"]).name == "predicted"


def test_a_strict_process_traces_and_prefetches(strict_process):
    def model(params, x):
        x = jax.nn.standardize(jnp.dot(x, params["kernel"])) * jax.nn.softplus(params["g"])[None]
        return jnp.dot(x, params["out"])

    params = {"kernel": np.ones((8, 7), np.float32), "g": np.zeros(7, np.float32), "out": np.ones((7, 10), np.float32)}
    graph = ghn_jax.trace(model, params, np.ones((2, 8), np.float32), strict=True)
    assert np.abs(np.log1p(np.exp(ghn_jax.predict_params(graph)["g"])) - 1).max() < 1
    (made,) = prefetch(np.float32(1) + jnp.arange(3) for _ in range(1))
    assert made.tolist() == [1, 2, 3]


def test_a_forked_process_is_told(tmp_path):
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")  # of JAX, about the fork
import ghn_jax
graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
ghn_jax.predict_params(graph)
if os.fork() == 0:
    try:
        ghn_jax.predict_params(graph)
    except ghn_jax.GHNError as error:
        os._exit(7 if "get_context('spawn')" in str(error) else 8)
    os._exit(9)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=100).returncode == 7


def test_a_cache_that_cannot_be_used_is_said_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "file")}
    script = "from ghn_jax.runtime import use_compilation_cache\nfor _ in range(3):\n    use_compilation_cache()"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stderr.count("no compiled programs are kept") == 1


def test_a_function_that_jax_traces_predicts_and_leaves_nothing_of_it_behind():
    graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
    ghn = random_ghn(SMALL)  # nothing is known of it yet
    inside = jax.jit(lambda: ghn_jax.predict_params(graph, ghn))()
    after = ghn_jax.predict_params(graph, ghn)
    assert all((inside[name] == after[name]).all() for name in after)
    with pytest.raises(ghn_jax.ConfigError, match="has no values while JAX traces a function: predict outside of it"):
        jax.jit(lambda params: ghn_jax.predict_params(graph, ghn_jax.GHN(ghn.config, params)))(ghn.params)


def test_numpy_that_raises_at_everything():
    with np.errstate(all="raise"), runtime.own_settings():
        assert np.float32(1e-30) * np.float32(1e-30) == 0


def test_messages_that_nobody_reads(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        runtime.say("no compiled programs are kept")


@pytest.mark.parametrize("words", [{"seed": 0.5}, {"strict": 1}])
def test_other_arguments(words):
    graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
    with pytest.raises(ghn_jax.GraphError, match=next(iter(words))):
        ghn_jax.predict_params(graph, **words)
