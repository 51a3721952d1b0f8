"""Models of equimo (Equinox): modules of one image and a key."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
from equimo import models

from public_models.case import Case, Cases, images, pytree

PACKAGE = "equimo"


def cases(small: bool) -> Cases:
    """Published sizes; two with images of 64x64 if `small`."""
    size = 64 if small else 224
    built: dict[str, Any] = {
        "vit_small_patch16_224": (models.vit_small_patch16_224, {"img_size": size}),
        "convnext_t": (models.convnext_t, {}),
        "mobilenetv3_small": (models.mobilenetv3_small, {}),
        "mobilenetv3_large": (models.mobilenetv3_large, {}),
        "iformer_t": (models.iformer_t, {}),
        "lowformer_backbone_b0": (models.lowformer_backbone_b0, {}),
        "reduceformer_backbone_b1": (models.reduceformer_backbone_b1, {}),
        "attnet_xxs": (models.attnet_xxs, {}),
        "dinov2_vits14": (models.dinov2_vits14, {"img_size": size}),
        "vit5_small": (models.vit5_small, {"img_size": size}),
        "Mlla": (models.Mlla, {"img_size": size, "in_channels": 3}),
        "Vssd": (models.Vssd, {"img_size": size, "in_channels": 3}),
        "FasterViT": (models.FasterViT, {
            "img_size": size, "in_channels": 3, "dim": 64, "in_dim": 64, "depths": [2, 3, 6, 5],
            "num_heads": [2, 4, 8, 16], "window_size": [7, 7, 7, 7], "ct_size": 2, "hat": [False, False, True, False],
        }),
        "SHViT": (models.SHViT, {
            "img_size": size, "in_channels": 3, "dim": [128, 224, 320], "pdim": [32, 48, 68], "qk_dim": [16, 16, 16],
            "depths": [2, 4, 5], "block_types": ["i", "s", "s"],
        }),
        "PartialFormer": (models.PartialFormer, {
            "img_size": size, "in_channels": 3, "dim": 48, "num_heads": [1, 2, 4, 8], "depths": [2, 2, 6, 2],
            "foreground_ratios": (0.7, 0.1), "patch_size": 4,
        }),
    }  # fmt: skip
    chosen = ("vit_small_patch16_224", "mobilenetv3_small") if small else tuple(built)
    return {f"equimo {name}": functools.partial(_case, name, size, *built[name]) for name in chosen}


def _case(name: str, size: int, build: Any, options: dict[str, Any]) -> Case:
    image = images(size, channels_first=True)[0]
    make = lambda key: eqx.nn.inference_mode(build(key=key, **options))  # noqa: E731
    return pytree(f"equimo {name}", PACKAGE, make, image, jax.random.key(1))
