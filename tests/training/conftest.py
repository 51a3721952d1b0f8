"""Small hypernetworks and networks in the place of those of a run."""

import dataclasses

import pytest
from small_runs import PLAIN, SMALL

from ghn_jax.training import meta_batches
from ghn_jax.training.config import TrainConfig


@pytest.fixture
def small_hypernetwork(monkeypatch):
    monkeypatch.setattr(TrainConfig, "hypernetwork", lambda self, task: SMALL)


@pytest.fixture
def small_networks(monkeypatch):
    """Networks of the stream are small ones, of two depths."""
    small = dataclasses.replace(PLAIN, n_cells=1, C=8, fc_dim=16)
    monkeypatch.setattr(
        meta_batches,
        "train_architecture",
        lambda seed, position, large_images, rules: dataclasses.replace(small, n_cells=1 + position % 2),
    )
