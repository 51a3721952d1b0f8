"""Programs kept on disk by recipe: what a second process finds, and when it must not."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax.execution import kept
from ghn_jax.execution.compiling import Programs, compile_lowered, lower_recipe
from ghn_jax.execution.kept import Kept, Serialized
from ghn_jax.execution.recipes import Sum

RECIPE = Sum((2, 3), 4, "float32")


class Entries(dict):
    """A cache in memory; what JAX keeps in it for itself does not count."""

    put = dict.__setitem__

    @property
    def names(self):
        return [name for name in self if name.startswith("ghn_jax-")]


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A recipe whose source code is not in the package."""

    donated = ()
    arguments = (jax.ShapeDtypeStruct((2,), jnp.float32),)

    def __call__(self, x):
        return x + 1


@pytest.fixture
def entries(monkeypatch):
    found = Entries()
    monkeypatch.setattr(kept.compilation_cache, "is_cache_used", lambda backend: True)
    monkeypatch.setattr(kept.compilation_cache, "_get_cache", lambda backend: found)
    return found


def programs(**options):
    """Programs, and the recipes that they lower."""
    lowered = []

    def watched(recipe, device):
        lowered.append(recipe)
        return lower_recipe(recipe, device)

    return Programs(jax.local_devices()[:1], lower=watched, **options), lowered


def run(compiled):
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    np.testing.assert_array_equal(compiled.get(RECIPE)(x, 2 * x), 3 * x)
    np.testing.assert_array_equal(compiled.get(RECIPE)(x, 2 * x), 3 * x)


def test_what_was_kept_is_not_lowered_again(entries):
    first, lowered = programs()
    run(first)
    assert lowered == [RECIPE] and len(entries.names) == 2
    second, lowered = programs()
    run(second)
    assert lowered == [] and second.distinct == 1


def test_a_recipe_without_its_program_is_compiled_again(entries):
    run(programs()[0])
    del entries[next(name for name in entries if name.startswith("ghn_jax-program"))]
    compiled, lowered = programs()
    run(compiled)
    assert lowered == [RECIPE] and len(entries.names) == 2


@pytest.mark.parametrize("damaged", [b"", b"\xff\x00", None], ids=["empty", "garbage", "cut short"])
def test_damaged_entries_are_compiled_again(entries, damaged):
    other = dataclasses.replace(RECIPE, shape=(5,))
    compiled, _ = programs()
    run(compiled)
    compiled.get(other)
    for name in entries.names:
        entries[name] = entries[name][:-5] if damaged is None else damaged
    compiled, lowered = programs()
    run(compiled)
    compiled.get(other)
    assert lowered == [RECIPE, other]
    compiled, lowered = programs()  # they have been replaced
    run(compiled)
    assert lowered == []


def test_a_damaged_program_is_said_once(entries, capsys):
    other = dataclasses.replace(RECIPE, shape=(5,))
    compiled, _ = programs()
    run(compiled)
    compiled.get(other)
    for name in entries.names:
        if name.startswith("ghn_jax-program"):
            entries[name] = entries[name][:-5]
    compiled, lowered = programs()
    run(compiled)
    compiled.get(other)
    assert lowered == [RECIPE, other]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ghn_jax: ghn_jax-program-") and "is compiled again" in line


def test_recipes_that_do_the_same_share_a_program(entries):
    same = dataclasses.replace(RECIPE, shape=(6,))
    other = dataclasses.replace(RECIPE, shape=(5,))
    for _ in range(2):
        compiled, _ = programs()
        for recipe in (RECIPE, same, other):
            compiled.get(recipe)
        assert compiled.distinct == 3  # of different shapes
    assert len(entries.names) == 6


@pytest.mark.parametrize(
    "change",
    ["source", "processor", "options", "setting"],
    ids=["source code", "processor", "options of XLA", "a setting of JAX"],
)
def test_other_environments_find_nothing(entries, monkeypatch, change):
    run(programs()[0])
    options, settings = None, {}
    if change == "source":
        monkeypatch.setattr(kept, "source_digest", lambda: "another")
    elif change == "processor":
        monkeypatch.setattr(kept, "processor", lambda: "another")
    elif change == "options":
        options = {"xla_cpu_enable_fast_math": True}
    else:
        settings = {"jax_default_matmul_precision": "highest"}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compiled, lowered = programs(options=options)
        run(compiled)
    finally:
        for name in settings:
            jax.config.update(name, None)
    assert lowered == [RECIPE]


def test_the_source_code_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text("x = 1")
    digest = kept.source_digest.__wrapped__()
    assert digest == kept.source_digest.__wrapped__()
    (tmp_path / "a.py").write_text("x = 2")
    assert digest != kept.source_digest.__wrapped__()


def test_recipes_of_others_are_kept_by_what_they_do(entries):
    for _ in range(2):
        compiled, lowered = programs()
        np.testing.assert_array_equal(compiled.get(Foreign())(np.zeros(2, np.float32)), [1, 1])
        assert lowered == [Foreign()]
    assert [name.startswith("ghn_jax-program") for name in entries.names] == [True]


def test_nothing_is_kept_where_nobody_asked_for_it(entries):
    run(programs(keep=False)[0])
    assert not entries.names


def test_nothing_is_kept_where_the_user_does_not_want_it(monkeypatch):
    monkeypatch.setattr(kept.compilation_cache, "is_cache_used", lambda backend: False)
    assert Kept.for_device(jax.local_devices()[0], {}, lower_recipe) is None


PREDICTED = """
import sys, jax, ghn_jax
from ghn_jax.execution import compiling
lowered = []
inner = compiling.Programs._lowered
compiling.Programs._lowered = lambda self, recipe: (lowered.append(recipe), inner(self, recipe))[1]
graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
params = ghn_jax.predict_params(graph)
jax.jit(lambda x: x + 1)(1.0)
print(len(lowered), float(sum(abs(leaf).sum() for leaf in params.values())))
"""


def predict_in_a_process(home, **settings):
    """Programs lowered there, the sum of what is predicted, and what is kept; no other cache is set up."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home), **settings}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREDICTED], env=environment, capture_output=True, text=True, check=True
    )
    number, total = done.stdout.split()
    return int(number), float(total), {file.name for file in home.rglob("*.program")}, done.stderr.splitlines()


def test_predictions_of_a_second_process_compile_nothing(tmp_path):
    lowered, total, kept_files, said = predict_in_a_process(tmp_path)
    assert lowered >= 3 and said == []
    # Nothing of the user's own: JAX's cache is his to turn on.
    assert len(kept_files) == 2 * lowered and all(name.startswith("ghn_jax-") for name in kept_files)
    assert predict_in_a_process(tmp_path) == (0, total, kept_files, [])


@pytest.mark.parametrize("way", ["switched off", "no folder"])
def test_predictions_that_keep_nothing(tmp_path, way):
    if way == "no folder":
        (tmp_path / "ghn_jax").write_text("a file")
    off = {"JAX_ENABLE_COMPILATION_CACHE": "false"} if way == "switched off" else {}
    lowered, _, kept_files, said = predict_in_a_process(tmp_path, **off)
    assert lowered >= 3 and not kept_files
    assert [line.partition(":")[2].startswith(" no compiled programs are kept") for line in said] == [True] * (not off)


COPIED = """
import jax, numpy as np
from ghn_jax.execution.compiling import Programs
from ghn_jax.execution.recipes import Sum
programs = Programs()
x = np.arange(24.0, dtype=np.float32).reshape(4, 2, 3)
for number, device in enumerate(jax.devices()):
    y = jax.device_put(x, device)
    result = programs.get(Sum((2, 3), 4, "float32"), number)(y, y)
    assert result.devices() == {device}, result.devices()
    np.testing.assert_array_equal(result, 2 * x)
"""


@pytest.mark.parametrize("cache", [False, True], ids=["compiled", "kept"])
def test_programs_of_several_devices(tmp_path, cache):
    """Compiled once; in processes of their own, with three devices."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = str(cache)
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    for _ in range(1 + cache):
        subprocess.run([sys.executable, "-c", COPIED], env=environment, check=True, timeout=120)
    assert len(list(tmp_path.glob("ghn_jax-*"))) in ((2, 4) if cache else (0,))


def test_bytes_of_a_program_give_the_program():
    compiled = compile_lowered(lower_recipe(RECIPE, jax.local_devices()[0]), {})
    x = np.ones((4, 2, 3), np.float32)
    loaded = Serialized(Serialized.of(compiled).data).load(jax.local_devices()[0])
    np.testing.assert_array_equal(loaded(x, x), 2 * x)
