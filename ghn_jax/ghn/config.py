"""What a hypernetwork is, before it has weights."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ghn_jax.checks import fields, files
from ghn_jax.checks.fields import Flag, OneOf, Several, Whole
from ghn_jax.errors import GHNError
from ghn_jax.ghn.decoders import DECODERS
from ghn_jax.ghn.embedders import EMBEDDERS
from ghn_jax.networks.architecture import CIFAR10, Task

MAX_DISTANCE = 50
"""Longest virtual edge (section 4.1; the published networks were trained with it)."""

MAX_LAYERS = 256
"""Of a Graphormer: ten times those of the largest published one."""


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
      hypernet: one of `EMBEDDERS`: "gatedgnn", "graphormer" (GHN-3), or "mlp" for one that looks at every node alone.
      decoder: one of `DECODERS`: "conv", "conv3" (GHN-3) or "mlp".
      weight_norm: normalise predicted tensors (section 4.3).
      ve: virtual edges (section 4.1); no effect with `hypernet="mlp"`.
      layernorm: layer normalisation of the node embeddings.
      hid: features of a node.
      heads: of attention, divisor of `hid`; only of a Graphormer.
      layers: of a Graphormer; other embedders have none to choose.
      embedder_dtype: of the factors of a Graphormer's products, "float32" or "bfloat16"; its weights, sums and
        normalisations are float32, and so are decoders.

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
    heads: int = 8
    layers: int = 3
    embedder_dtype: str = "float32"

    def __post_init__(self):
        attends = self.hypernet == "graphormer"
        types = OneOf("float32", "bfloat16") if attends else OneOf("float32")
        kinds = {"hypernet": OneOf(*EMBEDDERS), "decoder": OneOf(*DECODERS), "embedder_dtype": types}
        fields.check(self, ConfigError, **_RULES, **kinds)
        if self.max_shape[2] != self.max_shape[3]:
            raise ConfigError(f"HypernetConfig.max_shape={self.max_shape}: expected a square kernel")
        if self.hid % 4:
            raise ConfigError(f"HypernetConfig.hid={self.hid}: expected a positive multiple of 4")
        if attends and self.hid % self.heads:
            raise ConfigError(f"HypernetConfig.heads={self.heads}: expected a divisor of hid={self.hid}")

    @property
    def small_start(self) -> bool:
        """Embeddings and the last layers of decoders are initialised as in GHN-3: small."""
        return self.hypernet == "graphormer"

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
    "heads": Whole(1, 1 << 13),
    "layers": Whole(1, MAX_LAYERS),
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


def ghn3(task: Task = CIFAR10, *, hid: int = 64, layers: int = 3, heads: int = 8) -> HypernetConfig:
    """GHN-3 of Knyazev et al., ICML 2023; the defaults are those of GHN-3-T, the smallest."""
    side = _max_shape(task)[-1]
    return dataclasses.replace(
        ghn2(task),
        max_shape=(hid, hid, side, side),
        hypernet="graphormer",
        decoder="conv3",
        hid=hid,
        heads=heads,
        layers=layers,
    )


def _max_shape(task: Task) -> tuple[int, int, int, int]:
    return (64, 64, 16, 16) if task.large_images else (64, 64, 11, 11)


class NamedHypernetwork(NamedTuple):
    """A hypernetwork of the literature: its name there, and its configuration for a task."""

    title: str
    make: Callable[[Task], HypernetConfig]


HYPERNETWORKS = {
    "ghn1": NamedHypernetwork("GHN-1", ghn1),
    "ghn2": NamedHypernetwork("GHN-2", ghn2),
    "ghn3t": NamedHypernetwork("GHN-3-T", ghn3),
    "ghn3s": NamedHypernetwork("GHN-3-S", functools.partial(ghn3, hid=128, layers=5, heads=16)),
    "ghn3l": NamedHypernetwork("GHN-3-L", functools.partial(ghn3, hid=256, layers=12, heads=16)),
    "ghn3xl": NamedHypernetwork("GHN-3-XL", functools.partial(ghn3, hid=384, layers=24, heads=16)),
    "mlp": NamedHypernetwork("MLP", mlp),
}
"""By the name that a training configuration gives them."""


def title(config: HypernetConfig) -> str:
    """What the literature calls such a hypernetwork, whatever its sizes are; or else its kind of embedder.

    >>> title(ghn3()), title(ghn3(layers=4))
    ('GHN-3-T', 'GHN-3')
    """
    free = ("max_shape", "num_classes", "embedder_dtype")
    for names in (free, (*free, "hid", "heads", "layers")):
        for kind in HYPERNETWORKS.values():
            made = kind.make(CIFAR10)
            if dataclasses.replace(config, **{name: getattr(made, name) for name in names}) == made:
                # Of titles such as GHN-3-T, the last part says the size.
                return kind.title if names == free else kind.title[:5]
    return config.hypernet
