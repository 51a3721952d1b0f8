"""The configurations in `configs/` are part of the package that is installed; everything else is in setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ghn_jax", "ghn_jax.*"]), "ghn_jax.configs"],
    package_dir={"ghn_jax.configs": "configs"},
)
