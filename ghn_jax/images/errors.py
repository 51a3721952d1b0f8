"""What can be wrong with images."""

from ghn_jax.errors import GHNError


class ImageError(GHNError):
    """Images, labels or data files that cannot be used.

    >>> from ghn_jax import images
    >>> images.load('mnist')
    Traceback (most recent call last):
        ...
    ghn_jax.images.errors.ImageError: no data set is called 'mnist...
    """
