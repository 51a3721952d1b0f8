"""The two heads of a Faster R-CNN on one feature map.

Source: Ren et al., Faster R-CNN, section 3.1; the head on regions has two layers as in torchvision's.
"""

from __future__ import annotations

import jax
from flax import linen as nn

_SMALL = nn.initializers.normal(0.01)


class ProposalHead(nn.Module):
    """For every anchor the logit that it is an object, and the offsets of the object's box.

    Attributes:
      anchors: of every cell.
    """

    anchors: int

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits `[B, h * w * anchors]` and offsets `[B, h * w * anchors, 4]` of features `[B, h, w, C]`."""
        batch, *_, channels = features.shape
        x = nn.relu(nn.Conv(channels, (3, 3), kernel_init=_SMALL, name="conv")(features))
        logits = nn.Conv(self.anchors, (1, 1), kernel_init=_SMALL, name="logits")(x)
        offsets = nn.Conv(4 * self.anchors, (1, 1), kernel_init=_SMALL, name="offsets")(x)
        return logits.reshape(batch, -1), offsets.reshape(batch, -1, 4)


class RegionHead(nn.Module):
    """For every region the logits of background and object, and the offsets of the object's box.

    Attributes:
      width: of both hidden layers.
    """

    width: int

    @nn.compact
    def __call__(self, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits `[B, n, 2]` and offsets `[B, n, 4]` of regions `[B, n, size, size, C]`."""
        x = regions.reshape(*regions.shape[:2], -1)
        for name in ("hidden1", "hidden2"):
            x = nn.relu(nn.Dense(self.width, name=name)(x))
        return nn.Dense(2, name="logits")(x), nn.Dense(4, name="offsets")(x)
