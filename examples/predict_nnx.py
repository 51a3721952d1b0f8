"""All parameters of an NNX model, predicted into it.

python examples/predict_nnx.py
"""

import jax
from flax import nnx

import ghn_jax


class Block(nnx.Module):
    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(x + self.norm(self.conv(x)))


class Model(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 64, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(64, rngs=rngs) for _ in range(3)])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))


def main():
    model = Model(rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (64, 32, 32, 3))

    # One line: trace, predict, put into the module.
    graph = ghn_jax.fill(model, images)

    # Running statistics, so that batches of any size can be used in inference mode.
    nnx.update(model, ghn_jax.calibrate(model, nnx.state(model, nnx.Param), [images]))
    model.eval()

    print(ghn_jax.report(graph))
    print("\nlogits of one image:", model(images[:1]))


if __name__ == "__main__":
    main()
