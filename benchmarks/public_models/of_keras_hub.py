"""Backbones of KerasHub, which needs no TensorFlow to make them; the figures are of versions without a head."""

from __future__ import annotations

import functools
import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras_hub  # noqa: E402
import numpy as np  # noqa: E402

from public_models.case import Case, Cases, images, tokens  # noqa: E402
from public_models.of_keras import case_of  # noqa: E402

PACKAGE = "keras-hub"

VOCABULARY = 4096
LENGTH = 64


def cases(small: bool) -> Cases:
    """BERT, GPT-2, ViT, ResNets as published; others with 2 layers of width 256."""
    width = 32 if small else 256
    text = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": width, "intermediate_dim": 4 * width}
    heads = text | {"num_heads": 4}
    grouped = text | {"num_query_heads": 4, "num_key_value_heads": 2}
    made: dict[str, Any] = {
        "BERT": functools.partial(_text, "Bert", heads | ({} if small else {
            "vocabulary_size": 30522, "num_layers": 12, "hidden_dim": 768, "intermediate_dim": 3072, "num_heads": 12,
        }), segments=True, reduced=small),
        "GPT-2": functools.partial(_text, "GPT2", heads | ({} if small else {
            "vocabulary_size": 50257, "num_layers": 12, "hidden_dim": 768, "intermediate_dim": 3072, "num_heads": 12,
        }), reduced=small),
        "DeBERTa-V3": functools.partial(_text, "DebertaV3", heads | {"max_sequence_length": LENGTH}),
        "FNet": functools.partial(_text, "FNet", text, segments=True, masked=False),
        "ESM-2": functools.partial(_text, "ESM2", heads, masked=False),
        "XLNet": functools.partial(_text, "XLNet", heads, segments=True),
        "Mixtral": functools.partial(_text, "Mixtral", grouped | {"num_experts": 4}),
        "Qwen3": functools.partial(_text, "Qwen3", grouped | {"head_dim": width // 4}),
        "RWKV-7": functools.partial(_text, "RWKV7", {
            "hidden_size": width, "head_size": width // 4, "num_layers": 2, "vocabulary_size": VOCABULARY,
            "intermediate_dim": 4 * width,
        }),
        "ViT-S/16": functools.partial(_vision, "ViT", {
            "image_shape": (224, 224, 3), "patch_size": 16, "num_layers": 12, "num_heads": 6, "hidden_dim": 384,
            "mlp_dim": 1536,
        }),
        "ResNet-18": functools.partial(_vision, "ResNet", _resnet([2, 2, 2, 2], "basic_block")),
        "ResNet-50": functools.partial(_vision, "ResNet", _resnet([3, 4, 6, 3], "bottleneck_block")),
        "Swin-T": functools.partial(_vision, "SwinTransformer", {
            "image_shape": (224, 224, 3), "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
            "window_size": 7,
        }),
        "SegFormer-B0 encoder": functools.partial(_vision, "MiT", {
            "image_shape": (224, 224, 3), "layerwise_depths": [2, 2, 2, 2], "num_layers": 4,
            "layerwise_num_heads": [1, 2, 5, 8], "layerwise_sr_ratios": [8, 4, 2, 1], "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3, 3, 3], "layerwise_strides": [4, 2, 2, 2], "hidden_dims": [32, 64, 160, 256],
        }),
    }  # fmt: skip
    made = {f"keras-hub {name}": build for name, build in made.items()}
    return {name: made[name] for name in ("keras-hub BERT", "keras-hub Mixtral")} if small else made


def _resnet(blocks: list[int], kind: str) -> dict[str, Any]:
    return {
        "input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": blocks, "stackwise_num_strides": [1, 2, 2, 2], "block_type": kind,
        "image_shape": (224, 224, 3),
    }  # fmt: skip


def _text(kind: str, config: dict[str, Any], segments: bool = False, masked: bool = True, reduced: bool = True) -> Case:
    model = getattr(keras_hub.models, f"{kind}Backbone")(**config)
    inputs = {"token_ids": tokens(LENGTH, VOCABULARY)}
    if masked:
        inputs["padding_mask"] = np.ones((1, LENGTH), np.int32)
    if segments:
        inputs["segment_ids"] = np.zeros((1, LENGTH), np.int32)
    note = "2 layers, narrower, fewer tokens" if reduced else ""
    return case_of(f"keras-hub {kind}", PACKAGE, model, inputs, reduced=note, main=_main)


def _vision(kind: str, config: dict[str, Any]) -> Case:
    model = getattr(keras_hub.models, f"{kind}Backbone")(**config)
    return case_of(f"keras-hub {kind}", PACKAGE, model, images(224, batch=2), training=True, main=_main)


def _main(output: Any) -> Any:
    """The pooled output, the last level of a pyramid, or the only one."""
    outputs, _ = output
    if not isinstance(outputs, dict):
        return outputs
    return outputs["sequence_output"] if "sequence_output" in outputs else list(outputs.values())[-1]
