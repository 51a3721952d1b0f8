"""MobileNetV2 (Sandler et al. 2018), MobileNetV3-Large (Howard et al. 2019), EfficientNet-B0 (Tan and Le 2019)."""

import math

import jax.numpy as jnp
from flax import linen as nn


class SqueezeExcite(nn.Module):
    features: int
    act: object = nn.relu
    gate: object = nn.sigmoid

    @nn.compact
    def __call__(self, x):
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = self.act(nn.Conv(self.features, (1, 1))(s))
        s = self.gate(nn.Conv(x.shape[-1], (1, 1))(s))
        return x * s


class InvertedResidual(nn.Module):
    features: int
    kernel: int
    strides: int
    hidden: int
    act: object
    squeeze: int = 0
    gate: object = nn.sigmoid
    train: bool = True

    @nn.compact
    def __call__(self, x):
        def norm():
            return nn.BatchNorm(use_running_average=not self.train, momentum=0.99, epsilon=1e-3)

        inputs = x.shape[-1]
        y = x
        if self.hidden != inputs:
            y = self.act(norm()(nn.Conv(self.hidden, (1, 1), use_bias=False)(y)))
        kernel = (self.kernel, self.kernel)
        y = nn.Conv(self.hidden, kernel, self.strides, feature_group_count=self.hidden, use_bias=False)(y)
        y = self.act(norm()(y))
        if self.squeeze:
            y = SqueezeExcite(self.squeeze, act=self.act if self.gate is nn.sigmoid else nn.relu, gate=self.gate)(y)
        y = norm()(nn.Conv(self.features, (1, 1), use_bias=False)(y))
        return x + y if self.strides == 1 and inputs == self.features else y


def _divisible(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class MobileNetV2(nn.Module):
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(32, (3, 3), 2, use_bias=False)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
        settings = (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        )  # fmt: skip
        for expand, features, repeats, strides in settings:
            for i in range(repeats):
                hidden = expand * x.shape[-1]
                x = InvertedResidual(features, 3, 1 if i else strides, hidden, nn.relu6, train=train)(x)
        x = nn.Conv(1280, (1, 1), use_bias=False)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(self.num_classes)(x)


class MobileNetV3(nn.Module):
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(16, (3, 3), 2, use_bias=False)(x)
        x = nn.hard_swish(nn.BatchNorm(use_running_average=not train)(x))
        relu, swish = nn.relu, nn.hard_swish
        settings = (
            (3, 16, 16, False, relu, 1), (3, 64, 24, False, relu, 2), (3, 72, 24, False, relu, 1),
            (5, 72, 40, True, relu, 2), (5, 120, 40, True, relu, 1), (5, 120, 40, True, relu, 1),
            (3, 240, 80, False, swish, 2), (3, 200, 80, False, swish, 1), (3, 184, 80, False, swish, 1),
            (3, 184, 80, False, swish, 1), (3, 480, 112, True, swish, 1), (3, 672, 112, True, swish, 1),
            (5, 672, 160, True, swish, 2), (5, 960, 160, True, swish, 1), (5, 960, 160, True, swish, 1),
        )  # fmt: skip
        for kernel, hidden, features, squeeze, act, strides in settings:
            x = InvertedResidual(
                features, kernel, strides, hidden, act, _divisible(hidden / 4) if squeeze else 0, nn.hard_sigmoid, train
            )(x)
        x = nn.Conv(960, (1, 1), use_bias=False)(x)
        x = nn.hard_swish(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.hard_swish(nn.Dense(1280)(x.mean(axis=(1, 2))))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)


class EfficientNet(nn.Module):
    num_classes: int = 1000
    width: float = 1.0
    depth: float = 1.0

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(_divisible(32 * self.width), (3, 3), 2, use_bias=False)(x)
        x = nn.swish(nn.BatchNorm(use_running_average=not train)(x))
        settings = (
            (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
            (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
        )  # fmt: skip
        for expand, features, repeats, strides, kernel in settings:
            for i in range(math.ceil(repeats * self.depth)):
                inputs = x.shape[-1]
                x = InvertedResidual(
                    _divisible(features * self.width), kernel, 1 if i else strides, expand * inputs, nn.swish,
                    inputs // 4, train=train,
                )(x)  # fmt: skip
        x = nn.Conv(_divisible(1280 * self.width), (1, 1), use_bias=False)(x)
        x = nn.swish(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.2, deterministic=not train)(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(self.num_classes)(x)


def mobilenet_v2(**kwargs):
    return MobileNetV2(**kwargs)


def mobilenet_v3(**kwargs):
    return MobileNetV3(**kwargs)


def efficientnet_b0(**kwargs):
    return EfficientNet(**kwargs)
