"""Networks of Haiku: functions of parameters, states, a key and inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax

from public_models.case import Case, Cases, first, function, images, made, tokens

PACKAGE = "dm-haiku"


def cases(small: bool) -> Cases:
    """ResNets, a MobileNet, a recurrent network and a transformer; images of 32x32 if `small`."""
    size = 32 if small else 224

    def classifier(build: Callable[..., Any], **options: Any) -> Any:
        return lambda x: build(**options)(x, is_training=True)

    nets = {
        f"hk.nets.{name}": functools.partial(_stateful, classifier(getattr(hk.nets, name), num_classes=1000), size)
        for name in (["ResNet18"] if small else ["ResNet18", "ResNet50", "MobileNetV1"])
    }
    nets["hk.LSTM"] = _lstm
    nets["hk.MultiHeadAttention"] = _transformer
    return nets


def _stateful(net: Callable[..., Any], size: int) -> Case:
    """All of `f.apply`, its states and its key are arguments."""
    transformed = hk.transform_with_state(net)
    batch = images(size, batch=2)
    params, states = made(transformed.init, jax.random.key(0), batch)
    return function("hk.nets", PACKAGE, transformed.apply, params, states, None, batch, main=first)


def _lstm() -> Case:
    def net(text):
        x = hk.Embed(256, 64)(text)
        core = hk.LSTM(128)
        output, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(256)(output)

    transformed = hk.without_apply_rng(hk.transform(net))
    text = tokens(32, 256)
    params = transformed.init(jax.random.key(0), text)
    return function("hk.LSTM (characters)", PACKAGE, transformed.apply, params, text)


def _transformer() -> Case:
    def net(text):
        table = hk.Embed(256, 64)
        positions = hk.get_parameter("positions", (text.shape[1], 64), init=hk.initializers.TruncatedNormal(0.02))
        x = table(text) + positions
        for _ in range(2):
            y = hk.LayerNorm(-1, True, True)(x)
            x = x + hk.MultiHeadAttention(4, 16, w_init_scale=1.0)(y, y, y)
            x = x + hk.nets.MLP((256, 64), activation=jax.nn.gelu)(hk.LayerNorm(-1, True, True)(x))
        return hk.Linear(256)(hk.LayerNorm(-1, True, True)(x))

    transformed = hk.without_apply_rng(hk.transform(net))
    text = tokens(32, 256)
    params = transformed.init(jax.random.key(0), text)
    return function("hk.MultiHeadAttention (2 layers)", PACKAGE, transformed.apply, params, text)
