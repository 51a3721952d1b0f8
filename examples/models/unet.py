"""The encoder of a U-Net (Ronneberger et al. 2015) with group normalisation; returns the features of every level."""

from flax import linen as nn


class UNetEncoder(nn.Module):
    features: tuple[int, ...] = (64, 128, 256, 512, 1024)

    @nn.compact
    def __call__(self, x, train: bool = True):
        skips = []
        for level, features in enumerate(self.features):
            if level:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for _ in range(2):
                x = nn.Conv(features, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.GroupNorm(num_groups=8)(x))
            skips.append(x)
        return tuple(skips)


def unet_encoder(**kwargs):
    return UNetEncoder(**kwargs)
