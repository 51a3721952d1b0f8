"""What can be wrong with images."""

from ghn_jax.errors import GHNError


class ImageError(GHNError):
    """Images, labels or data files that cannot be used."""
