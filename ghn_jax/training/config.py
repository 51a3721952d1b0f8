"""What a training run is, checked before anything long starts."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections.config_dict
from ml_collections import ConfigDict

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Flag, Maybe, OneOf, Real, Several, Text, Whole
from ghn_jax.deepnets.sampler import SPLITS
from ghn_jax.ghn.config import HYPERNETWORKS, ConfigError, HypernetConfig
from ghn_jax.networks.architecture import Architecture, Task

MAY_CHANGE = frozenset(
    ("workdir", "data_dir", "max_minutes", "checkpoint_minutes", "keep_checkpoints")
    + ("val_networks", "val_images", "val_minutes", "val_at")
)
"""Fields that do not change what is learned: a run that goes on may have others than it began with."""


OPTIMIZERS = ("adam", "adamw", "muon")
SCHEDULES = ("steps", "cosine")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run; defaults are those of the paper for CIFAR-10 (appendix B).

    Attributes:
      dataset: name of an image data set.
      data_dir: where its files are; None looks in the usual places.
      workdir: where checkpoint, metrics and plots go.
      seed: of everything random in the run.
      steps: updates of the hypernetwork.
      ghn: one of `ghn.config.HYPERNETWORKS`: "ghn1", "ghn2", "ghn3t" to "ghn3xl", or "mlp".
      batch_size: images in a step.
      meta_batch: architectures in a step, whose losses are averaged.
      own_images: every architecture of a step sees images of its own, which the gradient gains from at no cost; in the
        original all see the same ones.
      optimizer: one of `OPTIMIZERS`, see `training.optimizer`.
      learning_rate: the largest of the run.
      schedule: "steps" divides the learning rate by 10 at `decay_at`; "cosine" takes it down to zero.
      decay_at: shares of the run.
      warm_up: share of the run in which the learning rate rises.
      weight_decay: L2 penalty, added to the gradient ("adam") or taken from the weights ("adamw", "muon").
      average: decay of a moving average of the weights, which is validated and kept; None for the last weights.
      norm_penalty: this times the norm of every predicted tensor is added to the loss of its network (GHN-3: 3e-5).
      clip_norm: largest global norm of the gradient.
      network_clip_norm: largest norm of one network's gradient with respect to its own parameters, None for no limit
        (as in the original).  The median is about 3, but networks without normalisation reach thousands and would
        drown the others of their meta-batch and the steps after it.
      start: what the hypernetwork starts from: "random" weights, or whatever `ghn_jax.load` takes: the name of one in
        the package ("ghn2_fashion_mnist"), a checkpoint folder, a file.
      label_smoothing: see `losses.cross_entropy`.
      teacher: a file that `training.teacher.save` wrote, of a network trained for the same images; every network of a
        step learns from its probabilities too.  None for none.
      teacher_share: of the loss, which goes by them; the rest goes by the labels.
      small_images: in the first steps images are scaled down to so many pixels, which costs a fraction; None for full
        size from the start.
      small_until: share of the run after which images have their full size.
      compute_dtype: of activations in the networks, and of the factors of a Graphormer's products, "float32" or
        "bfloat16"; decoders, weights and gradients of weights are float32 always.
      max_multiply_adds: architectures that cost more per image are passed over; None takes all.
      fixed_width: channels of all training networks; None draws them as in the paper.
      wider_networks: draw them as for GHN-3, from wider ranges (`deepnets.sampler.WIDER`).
      wider_shapes: share of training networks whose nodes show the shapes of a twin with other numbers of channels
        (`deepnets.sampler.SHOWN_WIDTHS`), while the network keeps its own: the hypernetwork learns the sizes of wider
        networks at no cost; 0 in the paper.
      max_minutes: stop with a checkpoint after so many minutes of training, those before an interruption included; None
        for no limit; the learning rate follows `steps`.
      checkpoint_minutes: a checkpoint is written this often.
      keep_checkpoints: so many of the newest stay, and the one with the best validation accuracy.
      val_networks: held-out architectures, the first of the val split that `max_multiply_adds` admits, whose accuracy
        is measured now and then; 0 for none.
      val_images: how many of the held-out training images they classify.
      val_minutes: accuracy is measured this often, and at the end.
      val_at: shares of the run after which it is measured too.
    """

    dataset: str = "cifar10"
    data_dir: str | None = None
    workdir: str = "runs/default"
    seed: int = 0
    steps: int = 210_900
    ghn: str = "ghn2"
    batch_size: int = 64
    meta_batch: int = 8
    own_images: bool = False
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "steps"
    decay_at: tuple[float, ...] = (200 / 300, 250 / 300)
    warm_up: float = 0.0
    weight_decay: float = 1e-5
    average: float | None = None
    norm_penalty: float = 0.0
    clip_norm: float = 5.0
    network_clip_norm: float | None = None
    start: str = "random"
    label_smoothing: float = 0.0
    teacher: str | None = None
    teacher_share: float = 0.4
    small_images: int | None = None
    small_until: float = 0.6
    compute_dtype: str = "float32"
    max_multiply_adds: int | None = None
    fixed_width: int | None = None
    wider_networks: bool = False
    wider_shapes: float = 0.0
    max_minutes: float | None = None
    checkpoint_minutes: float = 5.0
    keep_checkpoints: int = 3
    val_networks: int = 0
    val_images: int = 256
    val_minutes: float = 10.0
    val_at: tuple[float, ...] = ()

    def __post_init__(self):
        fields.check(self, ConfigError, "config", **_RULES)

    @property
    def images_of_step(self) -> int:
        """Number of images that a step is given: those of one network after another if each has its own."""
        return self.batch_size * (self.meta_batch if self.own_images else 1)

    def task_of_step(self, step: int, architecture: Architecture, task: Task) -> Task:
        """What a network of step number `step` is for: `task`, with smaller images if the run begins with those.

        Networks with attention see full size always: their positional encodings belong to it.
        """
        if self.small_images is None or architecture.has_attention or step >= self.small_until * self.steps:
            return task
        return dataclasses.replace(task, image_size=self.small_images)

    def hypernetwork(self, task: Task) -> HypernetConfig:
        """The hypernetwork to be trained, for networks of `task`.

        Raises:
          ConfigError: `small_images` does not divide the size of the images.
        """
        if self.small_images is not None and task.image_size % self.small_images:
            raise ConfigError(
                f"config.small_images={self.small_images}: expected a divisor of the images' {task.image_size} pixels"
            )
        ghn = HYPERNETWORKS[self.ghn].make(task)
        if ghn.hypernet == "graphormer":
            ghn = dataclasses.replace(ghn, embedder_dtype=self.compute_dtype)
        return ghn


_SOME = Real(0, 1e30, with_low=False)
_MINUTES = Real(0, 1e9, with_low=False)
_RULES = {
    "dataset": Text(),
    "data_dir": Maybe(Text()),
    "workdir": Text(),
    "seed": Whole(0, (1 << 31) - 1),
    "steps": Whole(1, 10**9),
    "ghn": OneOf(*HYPERNETWORKS),
    "batch_size": Whole(1, 1 << 20),
    "meta_batch": Whole(1, 1 << 16),
    "own_images": Flag(),
    "optimizer": OneOf(*OPTIMIZERS),
    "learning_rate": Real(0, 1000, with_low=False),
    "schedule": OneOf(*SCHEDULES),
    "decay_at": Several(Real(0, 1, with_low=False), 0, 64),
    "warm_up": Real(0, 1, with_high=False),
    "weight_decay": Real(0, 1000),
    "average": Maybe(Real(0, 1, with_low=False, with_high=False)),
    "norm_penalty": Real(0, 1000),
    "clip_norm": _SOME,
    "network_clip_norm": Maybe(_SOME),
    "start": Text(),
    "label_smoothing": Real(0, 1, with_high=False),
    "teacher": Maybe(Text()),
    "teacher_share": Real(0, 1, with_low=False),
    "small_images": Maybe(Whole(1, 1 << 13)),
    "small_until": Real(0, 1),
    "compute_dtype": OneOf("float32", "bfloat16"),
    "max_multiply_adds": Maybe(Whole(1, 1 << 62)),
    "fixed_width": Maybe(Whole(1, 1 << 14)),
    "wider_networks": Flag(),
    "wider_shapes": Real(0, 1),
    "max_minutes": Maybe(_MINUTES),
    "checkpoint_minutes": _MINUTES,
    "keep_checkpoints": Whole(1, 1000),
    "val_networks": Whole(0, SPLITS["val"].size),
    "val_images": Whole(1, 1 << 40),
    "val_minutes": _MINUTES,
    "val_at": Several(Real(0, 1, with_low=False, with_high=False), 0, 64),
}
"""What the fields of a `TrainConfig` may be."""


def from_fields(given: Mapping[str, Any]) -> TrainConfig:
    """The run with these fields, for example of an `ml_collections.ConfigDict`.

    Raises:
      ConfigError: an unknown field (with the nearest known one) or a value that makes no run.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"config: expected fields by name, got a {type(given).__name__}")
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ConfigError(f"config has no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return TrainConfig(**given)


def config_dict(**given: Any) -> ConfigDict:
    """A run for a file in `configs/`: these fields, and all others as `TrainConfig` has them.

    Every field is there, with its type, so that each can be given on the command line.
    """
    types = typing.get_type_hints(TrainConfig)
    known = ConfigDict()
    for field in dataclasses.fields(TrainConfig):
        value = given.pop(field.name, field.default)
        if value is None:
            kind = next(kind for kind in typing.get_args(types[field.name]) if kind is not type(None))
            value = ml_collections.config_dict.placeholder(kind)
        known[field.name] = value
    if given:
        from_fields(given)  # raises, naming the unknown one
    return known


def differences(config: TrainConfig, stored: Mapping[str, Any]) -> list[str]:
    """How a configuration differs from the stored fields of another, in what `MAY_CHANGE` does not allow."""
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    names = sorted((now.keys() | stored.keys()) - MAY_CHANGE)
    return [
        f"{name} was {stored.get(name, 'not there')!r}, is {now.get(name, 'not there')!r}"
        for name in names
        if name not in now or name not in stored or now[name] != stored[name]
    ]
