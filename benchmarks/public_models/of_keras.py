"""Applications of Keras: functions of their trainable variables, the others and images."""

from __future__ import annotations

import functools
import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras  # noqa: E402

from public_models.case import Case, Cases, first, function, images  # noqa: E402

PACKAGE = "keras"

APPLICATIONS = (
    "MobileNetV2 ResNet50 EfficientNetB0 ConvNeXtTiny ResNet50V2 MobileNet MobileNetV3Small EfficientNetV2B0"
    " DenseNet121 Xception InceptionV3 NASNetMobile"
).split()


def cases(small: bool) -> Cases:
    """Every family once; two with images of 32x32 if `small`."""
    names = ("MobileNetV2", "ResNet50") if small else APPLICATIONS
    made: dict[str, Any] = {
        f"keras.applications.{name}": functools.partial(_application, name, 32 if small else 224) for name in names
    }
    return made | {"keras.layers.GRU": _layers}


def _application(name: str, size: int) -> Case:
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    return case_of(f"keras.applications.{name}", PACKAGE, model, images(size, batch=2), training=True)


def _layers() -> Case:
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((16, 8)), layers.GRU(32, return_sequences=True), layers.LayerNormalization(), layers.GRU(32),
         layers.Dense(10)]
    )  # fmt: skip
    return case_of("keras.layers.GRU", PACKAGE, model, images(16)[0, :1, :, :1].repeat(8, 2))


def case_of(name: str, package: str, model: Any, batch: Any, **more: Any) -> Case:
    """A Keras model; `main` of what `stateless_call` returns, `reduced` and further arguments may be given."""
    trainable, other = ([v.value for v in kind] for kind in (model.trainable_variables, model.non_trainable_variables))
    return function(name, package, model.stateless_call, trainable, other, batch, **{"main": first, **more})
