"""Which boxes a detector learns from: anchors or proposals matched with the objects, and a fixed number of them drawn.

Source: Ren et al., Faster R-CNN, section 3.1.2; Girshick, Fast R-CNN, ICCV 2015, section 2.3.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.networks.primitives import Array
from ghn_jax.studies.detection.boxes import overlaps

OBJECT, BACKGROUND, NEITHER = 1, 0, -1


class Matches(NamedTuple):
    """Of n boxes: `OBJECT`, `BACKGROUND` or `NEITHER`, int32 `[n]`, and the object that each overlaps most, `[n]`."""

    labels: jax.Array
    objects: jax.Array


def match(boxes: Array, objects: Array, present: Array, low: float, high: float, each_object: bool) -> Matches:
    """What boxes are, by their overlap with objects.

    Args:
      boxes: `[n, 4]`.
      objects: `[m, 4]`, filled up.
      present: bool `[m]`, which objects are there.
      low: boxes of less overlap are background.
      high: boxes of at least so much are objects; those between are neither.
      each_object: the boxes that overlap an object most are objects too, however little that is.
    """
    found = jnp.where(present[None], overlaps(boxes, objects), -1)
    best = jnp.max(found, axis=1)
    labels = jnp.where(best >= high, OBJECT, jnp.where(best < low, BACKGROUND, NEITHER))
    if each_object:
        most = jnp.max(found, axis=0)
        labels = jnp.where(jnp.any((found == most) & (most > 0), axis=1), OBJECT, labels)
    return Matches(labels.astype(jnp.int32), jnp.argmax(found, axis=1))


class Drawn(NamedTuple):
    """Indices `[count]` of boxes, and which of these are there, bool `[count]`; fewer where there are fewer boxes."""

    indices: jax.Array
    there: jax.Array


def draw(labels: jax.Array, key: jax.Array, count: int, share: float) -> Drawn:
    """Objects and background at random, the objects first.

    Args:
      labels: `[n]`, of `match`.
      key: of the draw.
      count: how many are drawn, fewer if there are not so many that are either.
      share: at most this share of `count` are objects; background takes the place of those that are missing.
    """
    values = jax.random.uniform(key, labels.shape)

    def some(label: int, most: int) -> tuple[jax.Array, jax.Array]:
        drawn, indices = lax.top_k(jnp.where(labels == label, values, -1), min(most, len(labels)))
        return indices, drawn >= 0

    objects, are_objects = some(OBJECT, int(share * count))
    others, are_others = some(BACKGROUND, count)
    are_others &= jnp.arange(len(others)) < count - jnp.sum(are_objects)
    indices, there = jnp.concatenate([objects, others]), jnp.concatenate([are_objects, are_others])
    first = jnp.argsort(~there, stable=True)[:count]
    return Drawn(indices[first], there[first])
