"""What a hypernetwork is, before it has weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ghn_jax import fields, files
from ghn_jax.errors import GHNError
from ghn_jax.fields import Flag, OneOf, Several, Whole
from ghn_jax.ghn.decoders import DECODERS
from ghn_jax.ghn.embedders import EMBEDDERS
from ghn_jax.networks.architecture import CIFAR10, Task

MAX_DISTANCE = 50
"""Longest virtual edge (section 4.1; the published networks were trained with it)."""


class ConfigError(GHNError):
    """A configuration that describes no valid hypernetwork.

    >>> from ghn_jax.ghn.config import HypernetConfig
    >>> HypernetConfig(hid=3)
    Traceback (most recent call last):
        ...
    ghn_jax.ghn.config.ConfigError: HypernetConfig.hid=3: expected a positive multiple of 4
    """


@dataclasses.dataclass(frozen=True)
class HypernetConfig:
    """A hypernetwork; the fields are those of the published checkpoints.

    Attributes:
      max_shape: largest decoded tensor as `(out, in, h, w)`; larger targets are tiled.
      num_classes: classes of the networks it predicts.
      hypernet: one of `EMBEDDERS`: "gatedgnn", or "mlp" for one that looks at every node alone.
      decoder: one of `DECODERS`, "conv" or "mlp".
      weight_norm: normalise predicted tensors (section 4.3).
      ve: virtual edges (section 4.1); no effect with `hypernet="mlp"`.
      layernorm: layer normalisation of the node embeddings.
      hid: features of a node.

    Raises:
      ConfigError: naming the field, its value and what was expected.
    """

    max_shape: tuple[int, int, int, int] = (64, 64, 11, 11)
    num_classes: int = 10
    hypernet: str = "gatedgnn"
    decoder: str = "conv"
    weight_norm: bool = False
    ve: bool = False
    layernorm: bool = False
    hid: int = 32

    def __post_init__(self):
        kinds = {"hypernet": OneOf(*EMBEDDERS), "decoder": OneOf(*DECODERS)}
        fields.check(self, ConfigError, **_RULES, **kinds)
        if self.max_shape[2] != self.max_shape[3]:
            raise ConfigError(f"HypernetConfig.max_shape={self.max_shape}: expected a square kernel")
        if self.hid % 4:
            raise ConfigError(f"HypernetConfig.hid={self.hid}: expected a positive multiple of 4")

    @property
    def max_distance(self) -> int:
        """Longest edge, in steps of the network, along which nodes exchange messages."""
        return MAX_DISTANCE if self.ve else 1

    @property
    def max_out(self) -> int:
        """Output channels of the largest decoded tensor."""
        return self.max_shape[0]

    @property
    def max_in(self) -> int:
        """Input channels of the largest decoded tensor."""
        return self.max_shape[1]

    @property
    def max_kernel(self) -> int:
        """Height and width of the largest decoded kernel."""
        return self.max_shape[2]


# Far above what anybody has trained, low enough that shapes and vocabularies cost nothing.
_RULES = {
    "max_shape": Several(Whole(1, 1 << 13), 4, 4),
    "num_classes": Whole(1, 1 << 20),
    "weight_norm": Flag(),
    "ve": Flag(),
    "layernorm": Flag(),
    "hid": Whole(1, 1 << 13),
}
"""What the fields of a `HypernetConfig` may be, each by itself; embedders and decoders are those that there are."""


def to_json(config: HypernetConfig) -> str:
    """The configuration as JSON text that `from_json` reads."""
    return json.dumps(dataclasses.asdict(config))


def from_json(text: str) -> HypernetConfig:
    """The configuration written by `to_json`, or beside a published state dictionary.

    Raises:
      ConfigError: text that is no JSON object, an unknown field, or a value that makes no hypernetwork.
    """
    try:
        stored = files.parse_json(text)
    except ValueError as error:
        raise ConfigError(f"a hypernetwork's configuration must be a JSON object, got {text[:80]!r}") from error
    return from_fields(stored)


def from_fields(stored: Mapping[str, Any]) -> HypernetConfig:
    """The configuration with these fields, for example of a published checkpoint.

    Raises:
      ConfigError: an unknown field, or a value that makes no hypernetwork.
    """
    return fields.construct(HypernetConfig, stored, ConfigError)


def ghn1(task: Task = CIFAR10) -> HypernetConfig:
    """GHN-1, the baseline of Zhang et al., ICLR 2019, for networks of `task`."""
    return HypernetConfig(max_shape=_max_shape(task), num_classes=task.num_classes)


def ghn2(task: Task = CIFAR10) -> HypernetConfig:
    """GHN-2: virtual edges, normalised parameters and layer normalisation (section 4)."""
    return dataclasses.replace(ghn1(task), weight_norm=True, ve=True, layernorm=True)


def mlp(task: Task = CIFAR10) -> HypernetConfig:
    """The MLP baseline (section 5.1): GHN-2 with an MLP in the place of the graph network."""
    return dataclasses.replace(ghn2(task), hypernet="mlp")


def _max_shape(task: Task) -> tuple[int, int, int, int]:
    return (64, 64, 16, 16) if task.large_images else (64, 64, 11, 11)


class Recipe(NamedTuple):
    """A hypernetwork of the literature: its name there, and its configuration for a task."""

    title: str
    make: Callable[[Task], HypernetConfig]


RECIPES = {"ghn1": Recipe("GHN-1", ghn1), "ghn2": Recipe("GHN-2", ghn2), "mlp": Recipe("MLP", mlp)}
"""By the name that a training configuration gives them."""


def title(config: HypernetConfig) -> str:
    """What the literature calls such a hypernetwork, whatever its sizes are; or else its kind of embedder."""
    sizes = {"max_shape": config.max_shape, "num_classes": config.num_classes, "hid": config.hid}
    for recipe in RECIPES.values():
        if dataclasses.replace(recipe.make(CIFAR10), **sizes) == config:
            return recipe.title
    return config.hypernet
