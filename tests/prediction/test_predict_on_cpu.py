"""Programs of prediction on CPUs: rows of narrow tensors are decoded with fewer channels."""

import dataclasses

import jax
import numpy as np
import pytest
from example_graphs import random_graph
from random_ghns import CONFIGS, SMALL, random_ghn

from ghn_jax.ghn.rows import Table, request
from ghn_jax.graphs.graph import Role
from ghn_jax.prediction import on_cpu
from ghn_jax.prediction.predict import predict_params


def narrow(graph, every):
    """The graph, whose every so manieth dense tensor has three channels."""
    tensors = list(graph.tensors)
    for number, tensor in enumerate(tensors):
        if tensor.role is Role.WEIGHT and number % every == 0:
            tensors[number] = dataclasses.replace(tensor, shape=(*tensor.shape[:-2], 3, 3))
    return dataclasses.replace(graph, tensors=tuple(tensors))


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("config", CONFIGS, ids=["ghn2", "mlp decoder", "mlp", "ghn1", "ghn3"])
def test_narrow_tensors_get_the_corner_of_their_rows(config, every, monkeypatch):
    """In chunks of their own, in one with wide tensors, and across two chunks."""
    ghn, device = random_ghn(config), jax.devices("cpu")[0]
    graphs = [narrow(random_graph(seed, nodes=50), every) for seed in range(3)]
    requests, placements = request(graphs, 64, config)
    embeddings = np.random.default_rng(0).normal(size=(3 * 64, config.hid)).astype(np.float32)
    found = on_cpu.decode_tables(graphs, embeddings, requests, placements, ghn, device)
    if every == 1 and config is SMALL:
        assert {chunk.shape[1:] for chunk in found[Table.DENSE].chunks} == {(4, 4), (8, 8)}
    monkeypatch.setattr(on_cpu, "_wide_rows", lambda graphs, placements, count, corner: np.ones(count, bool))
    whole = on_cpu.decode_tables(graphs, embeddings, requests, placements, ghn, device)
    for graph, places in zip(graphs, placements, strict=True):
        for tensor, place in zip(graph.tensors, places, strict=True):
            rows, expected = (decoded[place.table].rows(place) for decoded in (found, whole))
            assert len(rows) == place.rows
            if place.table is Table.DENSE:
                inputs, outputs = on_cpu._channels(tensor)
                rows, expected = rows[:, :inputs, :outputs], expected[:, :inputs, :outputs]
                assert rows.shape[1:] == (min(inputs, config.max_in), min(outputs, config.max_out))
            np.testing.assert_allclose(rows, expected, atol=1e-6, err_msg=str(tensor))


@pytest.mark.parametrize("max_shape", [(1, 1, 3, 3), (1, 8, 3, 3), (5, 7, 3, 3)])
def test_hypernetworks_of_few_or_odd_channels(max_shape):
    ghn = random_ghn(dataclasses.replace(SMALL, max_shape=max_shape))
    for name, value in predict_params(narrow(random_graph(seed=3, nodes=40), 2), ghn).items():
        assert np.isfinite(value).all(), name
