"""Models of `examples/models`, which are this project's own."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from examples.models import convnext, densenet, gpt, mobilenet, nnx_models, resnet, unet, vgg, vit  # noqa: E402
from public_models.case import Case, Cases, images, linen, nnx_module, tokens  # noqa: E402

PACKAGE = "examples/models"


def cases(small: bool) -> Cases:
    """All of them."""
    built: dict[str, tuple[Any, Any]] = {
        "ResNet-18": (resnet.resnet18, images(224)),
        "ResNet-50": (resnet.resnet50, images(224)),
        "WideResNet-28-10": (resnet.wide_resnet28_10, images(32)),
        "VGG-16 (batch norm)": (vgg.vgg16, images(224)),
        "DenseNet-121": (densenet.densenet121, images(224)),
        "MobileNetV2": (mobilenet.mobilenet_v2, images(224)),
        "MobileNetV3-Large": (mobilenet.mobilenet_v3, images(224)),
        "EfficientNet-B0": (mobilenet.efficientnet_b0, images(224)),
        "ConvNeXt-T": (convnext.convnext_tiny, images(224)),
        "ViT-S/16": (vit.vit_s16, images(224)),
        "MLP-Mixer-S/16": (vit.mixer_s16, images(224)),
        "U-Net encoder": (unet.unet_encoder, images(64 if small else 256)),
        "GPT-like decoder (scan)": (gpt.gpt_small, tokens(256, 500)),
        "ResNet-18 (NNX)": (nnx_models.resnet18, images(32)),
        "ViT (NNX)": (nnx_models.vit, images(32)),
        "MLP on a table (NNX)": (nnx_models.mlp, images(16)[0, :8, :, 0]),
    }
    return {f"examples {name}": functools.partial(_case, name, *built[name]) for name in ([] if small else built)}


def _case(name: str, build: Any, batch: Any) -> Case:
    made = nnx_module if "NNX" in name else linen
    return made(name, PACKAGE, build(), batch)
