"""The base of the errors that this package raises."""


class GHNError(ValueError):
    """Something that was given to the package and that it cannot use; the message says what was expected."""
