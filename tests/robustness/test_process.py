"""The package leaves the process it runs in as it was, and works in a strict one."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

import ghn_jax


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


@pytest.mark.parametrize("words", [{"seed": 0.5}, {"strict": 1}])
def test_other_arguments(words):
    graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
    with pytest.raises(ghn_jax.GraphError, match=next(iter(words))):
        ghn_jax.predict_params(graph, **words)
