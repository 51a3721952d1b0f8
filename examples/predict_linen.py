"""All parameters of a Linen model, predicted in one forward pass.

python examples/predict_linen.py
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

import ghn_jax


class CNN(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = True):
        for features in (32, 64, 128):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


def main():
    model, images = CNN(), jax.random.normal(jax.random.key(0), (64, 32, 32, 3))

    # The three lines: no `model.init`, no training.
    graph = ghn_jax.trace(model, images)
    params = ghn_jax.predict_params(graph)
    stats = ghn_jax.calibrate(model, params, [images])

    print(ghn_jax.report(graph))
    logits = model.apply({"params": params, "batch_stats": stats}, images, train=False)
    print(f"\nlogits {logits.shape}, mean {jnp.mean(logits):.3f}, standard deviation {jnp.std(logits):.3f}")


if __name__ == "__main__":
    main()
