"""Non-maximum suppression in a fixed shape: of boxes that overlap much, the one of the highest score stays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ghn_jax.studies.detection.boxes import overlaps


def suppress(boxes: jax.Array, scores: jax.Array, threshold: float, count: int) -> tuple[jax.Array, jax.Array]:
    """The boxes that stay, by falling score.

    A box goes if one that stays has a higher score and overlaps it by more than the threshold.  Which ones stay is
    worked out for all boxes at once, again and again until nothing changes: then it is what the rule says.  That takes
    as many rounds as the longest chain of boxes that decide about each other, not as many as there are boxes.

    Args:
      boxes: `[n, 4]`.
      scores: `[n]`; a score of -inf is no box.
      threshold: of intersection over union.
      count: how many are returned.

    Returns:
      Indices `[count]`, and which of them are boxes that stay, bool `[count]`.
    """
    order = jnp.argsort(-scores, stable=True)
    there = scores[order] > -jnp.inf
    boxes = boxes[order]
    decides = jnp.tril(overlaps(boxes, boxes) > threshold, -1)  # [box, one of a higher score]

    def again(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        now = there & ~jnp.any(decides & kept, axis=1)
        return now, jnp.any(now != kept)

    kept, _ = lax.while_loop(lambda state: state[1], again, (there, jnp.array(True)))
    if count > len(scores):
        order, kept = (jnp.pad(values, (0, count - len(scores))) for values in (order, kept))
    first = jnp.argsort(~kept, stable=True)[:count]
    return order[first], kept[first]
