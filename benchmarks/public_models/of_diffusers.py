"""The Flax models of diffusers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import FlaxAutoencoderKL, FlaxControlNetModel, FlaxUNet2DConditionModel

from public_models.case import Case, Cases, linen

PACKAGE = "diffusers"

CHANNELS = (32, 64)


def cases(small: bool) -> Cases:
    """Of Stable Diffusion, with two levels instead of four, and fewer channels."""
    made = {"AutoencoderKL": _autoencoder, "UNet2DCondition": _unet, "ControlNet": _controlnet}
    chosen = ("AutoencoderKL",) if small else tuple(made)
    return {f"diffusers {name}": made[name] for name in chosen}


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _autoencoder() -> Case:
    model = FlaxAutoencoderKL(
        block_out_channels=CHANNELS, layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return linen(
        "AutoencoderKL", PACKAGE, model, _noise(1, 3, 32, 32), main=lambda output: output.sample, reduced="2 levels"
    )


def _unet() -> Case:
    model = FlaxUNet2DConditionModel(
        sample_size=16, block_out_channels=CHANNELS, layers_per_block=1, attention_head_dim=8, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return linen(
        "UNet2DCondition", PACKAGE, model, _noise(1, 4, 16, 16), jnp.ones(1, jnp.int32), _noise(1, 8, 32),
        main=lambda output: output.sample, reduced="2 levels",
    )  # fmt: skip


def _controlnet() -> Case:
    model = FlaxControlNetModel(
        sample_size=16, block_out_channels=CHANNELS, layers_per_block=1, attention_head_dim=8, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(16, 32),
    )  # fmt: skip
    return linen(
        "ControlNet", PACKAGE, model, _noise(1, 4, 16, 16), jnp.ones(1, jnp.int32), _noise(1, 8, 32),
        _noise(1, 3, 32, 32), main=lambda output: jax.tree.leaves(output)[0], reduced="2 levels",
    )  # fmt: skip
