"""VGG-16 with batch normalisation (Simonyan and Zisserman 2015)."""

from flax import linen as nn

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class VGG(nn.Module):
    layers: tuple = VGG16
    num_classes: int = 1000
    width: int = 4096

    @nn.compact
    def __call__(self, x, train: bool = True):
        for layer in self.layers:
            if layer == "M":
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            else:
                x = nn.Conv(layer, (3, 3))(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = x.reshape((x.shape[0], -1))
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)


def vgg16(**kwargs):
    return VGG(**kwargs)
