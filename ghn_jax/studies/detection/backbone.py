"""A network up to its global pooling, on images of any size: the backbone of a detector."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ghn_jax.execution import whole
from ghn_jax.graphs.graph import Role
from ghn_jax.networks.convolution import Size
from ghn_jax.networks.primitives import Flatten, GlobalAvgPool
from ghn_jax.networks.program import Program
from ghn_jax.studies.train_networks import StudyError


def truncated(program: Program) -> Program:
    """The instructions before global pooling, or before the features are flattened; the last one writes the features.

    Raises:
      StudyError: there is no such place.
    """
    for index, instruction in enumerate(program.instructions):
        if isinstance(instruction.primitive, (GlobalAvgPool, Flatten)):
            return Program(program.task, program.instructions[:index])
    raise StudyError("a network without global pooling or flattened features is no backbone")


def features(backbone: Program, params: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """The feature map `[B, h, w, C]` of images `[B, H, W, 3]`, with the statistics of the batch."""
    return whole.run_at_any_size(backbone, params, images)


def feature_shape(backbone: Program, params: Mapping[str, np.ndarray], canvas: Size) -> tuple[int, int, int]:
    """Height, width and channels of the features of images of this height and width.

    Args:
      backbone: of `truncated`.
      params: whose position codes fit, as those of `resized`.
      canvas: height and width of the images.
    """
    images = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    _, height, width, channels = jax.eval_shape(lambda p, x: features(backbone, p, x), dict(params), images).shape
    return height, width, channels


def resized(backbone: Program, params: Mapping[str, np.ndarray], canvas: Size) -> dict[str, np.ndarray]:
    """The parameters of a backbone for images of another size: position codes are interpolated, all else stays.

    Args:
      backbone: of `truncated`.
      params: of the network, by name; those that the backbone does not have are left out.
      canvas: height and width of the images.

    Raises:
      StudyError: images so small that there are no features.
    """
    found = {tensor.name: np.asarray(params[tensor.name]) for tensor in backbone.tensors}
    for index, instruction in enumerate(backbone.instructions):
        for tensor in instruction.tensors:
            if tensor.role is Role.POSITION:
                before = Program(backbone.task, backbone.instructions[:index])
                height, width, channels = feature_shape(before, found, canvas)
                found[tensor.name] = np.asarray(
                    jax.image.resize(found[tensor.name], (1, height, width, channels), "bilinear")
                )
    if min(feature_shape(backbone, found, canvas)) < 1:
        raise StudyError(f"images of {canvas[0]}x{canvas[1]} pixels are too small for this network: no features left")
    return found
