"""Public models by the package that they are from: what `benchmarks/trace_models.py` traces.

A package that is not installed is left out by name.  The extra `public-models` of setup.cfg pins those that the
recorded table was made with.
"""

from __future__ import annotations

import importlib
import importlib.util

from public_models.case import Cases

SOURCES = {
    "examples": ("of_examples", "cases", ()),
    "haiku": ("of_haiku", "cases", ("haiku",)),
    "equinox": ("of_equinox", "of_equinox", ("equinox",)),
    "diffrax": ("of_equinox", "of_diffrax", ("equinox", "diffrax")),
    "flowjax": ("of_equinox", "of_flowjax", ("equinox", "flowjax")),
    "pdequinox": ("of_equinox", "of_pdequinox", ("equinox", "pdequinox")),
    "jraph": ("of_flax", "of_jraph", ("jraph",)),
    "flaxmodels": ("of_flax", "of_flaxmodels", ("flaxmodels",)),
    "jax_resnet": ("of_flax", "of_jax_resnet", ("jax_resnet",)),
    "jax_models": ("of_flax", "of_jax_models", ("jax_models",)),
    "mamba2": ("of_flax", "of_mamba2", ("mamba2_jax",)),
    "jaxkan": ("of_flax", "of_jaxkan", ("jaxkan",)),
    "equimo": ("of_equimo", "cases", ("equimo",)),
    "keras": ("of_keras", "cases", ("keras",)),
    "keras_hub": ("of_keras_hub", "cases", ("keras", "keras_hub")),
    "diffusers": ("of_diffusers", "cases", ("diffusers",)),
    "transformers": ("of_transformers", "cases", ("transformers",)),
}
"""Module, function and modules that it needs, by the name of the source."""


def missing(source: str) -> list[str]:
    """Modules that a source needs and that are not installed."""
    return [module for module in SOURCES[source][2] if importlib.util.find_spec(module) is None]


def cases(source: str, small: bool = False) -> Cases:
    """The models of a source.

    Args:
      source: a key of `SOURCES`.
      small: only a few of them, with fewer layers and smaller images.
    """
    module, function, _ = SOURCES[source]
    return getattr(importlib.import_module(f"public_models.{module}"), function)(small)
