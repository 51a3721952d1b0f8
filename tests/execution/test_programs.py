"""Programs that could not be compiled once are compiled when they are asked for again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ghn_jax.execution import compiling


@dataclasses.dataclass(frozen=True)
class Twice:
    """A number, twice."""

    donated = ()
    arguments = (jax.ShapeDtypeStruct((), jnp.float32),)

    def __call__(self, value):
        return 2 * value


@pytest.mark.parametrize("stage", ["lower_recipe", "compile_lowered"])
def test_want_of_memory_is_forgotten(stage, monkeypatch):
    works = getattr(compiling, stage)

    def fails(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(compiling, stage, fails)
        programs = compiling.Programs(threads=1, keep=False, lower=compiling.lower_recipe)
        with pytest.raises(MemoryError):
            programs.get(Twice())
        if stage == "lower_recipe":
            programs._lower = works
    assert programs.get(Twice())(np.float32(3)) == 6
    programs.close()
