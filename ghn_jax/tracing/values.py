"""What tracing knows of a value: a constant, a parameter, an activation, or something on the way to one."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from ghn_jax.tracing.layout import View


@dataclasses.dataclass(frozen=True)
class Constant:
    """Depends on no input and no parameter."""


@dataclasses.dataclass(frozen=True)
class TracedParameter:
    """One parameter, or several, perhaps transformed element by element.

    Attributes:
      parts: the parameters.
      axis: they are concatenated along it.
      paired: they are the real and the imaginary part of a complex one.
      changed: something was computed with it, so that it is not itself any more.
      number: of the value.
    """

    parts: tuple[View, ...]
    axis: int | None = None
    paired: bool = False
    changed: bool = False
    number: int | None = dataclasses.field(default=None, compare=False)

    @property
    def view(self) -> View:
        """The parameter, or the first of several."""
        return self.parts[0]

    @property
    def size(self) -> int:
        """Number of different elements; complex ones count once."""
        return self.view.size if self.paired else sum(part.size for part in self.parts)

    @property
    def joined(self) -> bool:
        """Whether it is a concatenation."""
        return len(self.parts) > 1 and not self.paired

    @property
    def use(self) -> int | None:
        """Number of the value, if it is not the parameter itself but computed from it."""
        return self.number if self.changed and not self.paired else None


@dataclasses.dataclass(frozen=True)
class Activation:
    """Values that come from a node.

    Attributes:
      node: its number.
      direct: they are the node's output in some layout, nothing was computed since.
    """

    node: int
    direct: bool = False


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A reduction of an activation, not yet known to be pooling or part of a normalisation.

    Attributes:
      node: where the activation comes from; None for running statistics, which are given.
      over_batch: the batch is reduced too.
      first_alone: only the first axis is reduced, which is the batch or, in a model of one image, its channels.
      largest: it is a maximum.
      window: sizes of the reduced axes.
      root: a square root was taken: dividing by it normalises.
      scales, shifts: parameters that were multiplied with it and added to it.
    """

    node: int | None
    over_batch: bool = False
    first_alone: bool = False
    largest: bool = False
    window: tuple[int, ...] = ()
    root: bool = False
    scales: tuple[TracedParameter, ...] = ()
    shifts: tuple[TracedParameter, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scores:
    """A product of two activations, such as attention scores, waiting for a third; `sources` are numbers of nodes."""

    sources: tuple[int, ...]


Value = Constant | TracedParameter | Activation | Statistic | Scores
CONSTANT = Constant()


_Any = TypeVar("_Any", bound=Value)


def touched(value: _Any) -> _Any | Activation:
    """The value after something was computed with it that is no node: not its node's direct output any more."""
    return Activation(value.node) if isinstance(value, Activation) else value
