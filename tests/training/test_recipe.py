"""The recipe of a run beyond the paper's: optimizers, schedules, averages, penalties, smaller images at first."""

import contextlib
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import PLAIN, SMALL, small_config

from ghn_jax.deepnets import sampler
from ghn_jax.execution import whole
from ghn_jax.ghn.config import ConfigError, HypernetConfig
from ghn_jax.ghn.hypernetwork import param_shapes
from ghn_jax.ghn.model import GHN
from ghn_jax.images.augment import smaller
from ghn_jax.images.errors import ImageError
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.network import make_network
from ghn_jax.networks.program_graph import graph_of
from ghn_jax.prediction.predict import predict_params
from ghn_jax.training import loop, parallel
from ghn_jax.training.config import TrainConfig, from_fields
from ghn_jax.training.engine import Engine
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import averaged, make_optimizer, make_schedule, matrices
from ghn_jax.training.step import init_state, update
from ghn_jax.weights import checkpoint, run_checkpoints


def test_optimizer_is_adam_with_l2_and_clipping():
    config = TrainConfig(steps=10, learning_rate=0.1, weight_decay=0.5, clip_norm=1.0, decay_at=(0.5,))
    optimizer = make_optimizer(config)
    params, gradient = {"w": jnp.array([3.0, -1.0])}, {"w": jnp.array([30.0, 40.0])}
    state = optimizer.init(params)
    mean, square = np.zeros(2), np.zeros(2)
    w = np.array([3.0, -1.0])
    for count in range(1, 8):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        g = np.array([0.6, 0.8]) + 0.5 * w
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        rate = 0.1 if count <= 5 else 0.01
        w = w - rate * (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.999**count)) + 1e-8)
        np.testing.assert_allclose(params["w"], w, rtol=1e-4)


def one_update(config, params, gradient):
    optimizer = make_optimizer(config)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_shrink_by_themselves(optimizer):
    """Without a gradient, by rate times weight decay; Adam's L2 penalty would take a whole step."""
    config = TrainConfig(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)
    params = {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([1.0])}
    params = one_update(config, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(params["kernel"], [[1.9, -3.8]], rtol=1e-6)
    np.testing.assert_allclose(params["bias"], [0.95], rtol=1e-6)


def test_muon_orthogonalizes_matrices_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (6, 4), "position_kernel": (3, 6, 4), "embedding": (6, 4), "bias": (4,)}
    gradient = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    config = TrainConfig(optimizer="muon", learning_rate=0.1, weight_decay=0.0)
    moved = one_update(config, zeros, gradient)
    # An orthogonal 6x4 matrix times 0.2 sqrt(6); five iterations leave singular values between 0.7 and 1.2 of that.
    for matrix in (moved["kernel"], *moved["position_kernel"]):
        values = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * np.sqrt(6))
        assert 0.6 < values.min() and values.max() < 1.3
        assert np.linalg.cond(matrix) < 0.75 * np.linalg.cond(gradient["kernel"])
    for name in ("embedding", "bias"):  # Adam's first step is the sign, with Nesterov's momentum half as long again
        length = 0.1 * (1 + 0.9 * 0.1 / (1 - 0.9**2))
        np.testing.assert_allclose(moved[name], -length * np.sign(gradient[name]), rtol=1e-4)


def test_every_kernel_of_a_hypernetwork_is_a_matrix():
    found = matrices(param_shapes(SMALL))
    flat = jax.tree_util.tree_leaves_with_path(found, is_leaf=lambda leaf: not isinstance(leaf, dict))
    assert {path[-1].key for path, leaf in flat if leaf is not None} == {"kernel", "position_kernel"}
    assert {path[-1].key for path, leaf in flat if leaf is None} >= {
        "bias",
        "embedding",
        "channels",
        "spatial",
        "scale",
    }
    assert found["decoder"]["kernel"] == (0, 2) and found["decoder"]["position_kernel"] == (1, 2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "cosine"}, {0: 1.0, 25: 0.853553, 50: 0.5, 100: 0.0}),
        ({"schedule": "cosine", "warm_up": 0.2}, {0: 0.05, 9: 0.5, 19: 1.0, 20: 1.0, 60: 0.5, 100: 0.0}),
        ({"decay_at": (0.5, 0.8), "warm_up": 0.1}, {0: 0.1, 9: 1.0, 49: 1.0, 50: 0.1, 79: 0.1, 80: 0.01}),
        ({"decay_at": (), "warm_up": 0.01}, {0: 1.0, 1: 1.0, 99: 1.0}),
    ],
)
def test_learning_rates(fields, expected):
    rate = make_schedule(TrainConfig(steps=100, learning_rate=1.0, **fields))
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-6), step


def test_the_average_of_weights():
    weights = [np.array([value]) for value in (1.0, 5.0, 2.0, -3.0)]
    average = weights[0]
    for step, new in enumerate(weights[1:]):
        average = averaged(average, new, np.int32(step), 0.15)
    # Shares of the old: 1/10, then 2/11 and 3/12, which 0.15 cuts.
    expected = 0.15 * (0.15 * (0.1 * 1 + 0.9 * 5) + 0.85 * 2) + 0.85 * -3
    np.testing.assert_allclose(average, [expected], rtol=1e-6)


def test_a_skipped_step_leaves_the_average():
    optimizer = optax.sgd(1.0)
    state = init_state({"w": jnp.array([1.0])}, optimizer, average=True)
    new, _, applied = update(optimizer, state, {"w": jnp.array([np.nan])}, jnp.zeros(1), 0.5)
    assert not applied and new.average["w"] == 1 and new.step == 1
    new, _, applied = update(optimizer, state, {"w": jnp.array([2.0])}, jnp.zeros(1), 0.5)
    np.testing.assert_allclose(new.average["w"], 0.1 * 1 + 0.9 * -1, rtol=1e-6)
    assert applied and new.params["w"] == -1 and new.result is new.average


def test_images_are_scaled_down_by_means():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    half = smaller(images, 2)
    assert half.shape == (2, 2, 2, 3) and half.dtype == np.float32
    np.testing.assert_allclose(half[1, 0, 1], images[1, 0:2, 2:4].mean((0, 1)))
    assert smaller(images, 4) is images
    with pytest.raises(ImageError, match="4 pixels cannot be scaled down to 3"):
        smaller(images, 3)


def test_networks_are_the_same_with_smaller_images_at_first():
    plain = TrainConfig(meta_batch=4, steps=10, max_multiply_adds=30_000_000, fixed_width=32)
    small = dataclasses.replace(plain, small_images=16, small_until=0.3)
    drawn, again = (list(itertools.islice(meta_batches(config, CIFAR10), 5)) for config in (plain, small))
    for step, (full, other) in enumerate(zip(drawn, again, strict=True)):
        assert [t.number for t in full.targets] == [t.number for t in other.targets] and full.after == other.after
        for target in other.targets:
            expected = 32 if step >= 3 or target.architecture.has_attention else 16
            assert target.program.task.image_size == expected
    sizes = [{t.program.task.image_size for t in step.targets} for step in again]
    assert 16 in sizes[0] and sizes[3:] == [{32}, {32}]
    resumed = next(meta_batches(small, CIFAR10, again[2].after, first_step=3))
    assert {t.program.task.image_size for t in resumed.targets} == {32}


def test_wider_networks_are_those_of_ghn3():
    config = TrainConfig(meta_batch=8, seed=3, wider_networks=True)
    (drawn,) = itertools.islice(meta_batches(config, CIFAR10), 1)
    expected = [sampler.train_architecture(3, position, rules=sampler.WIDER) for position in range(8)]
    assert [target.architecture for target in drawn.targets] == expected
    assert expected != [sampler.train_architecture(3, position) for position in range(8)]


def test_networks_that_show_the_shapes_of_wider_ones_are_the_same_otherwise():
    plain = TrainConfig(meta_batch=8, seed=3, max_multiply_adds=60_000_000)
    own, shown = (
        list(itertools.islice(meta_batches(config, CIFAR10), 4))
        for config in (plain, dataclasses.replace(plain, wider_shapes=0.5))
    )
    as_shown = 0
    for batch, other_batch in zip(own, shown, strict=True):
        assert other_batch.after == batch.after
        for target, other in zip(batch.targets, other_batch.targets, strict=True):
            assert (other.architecture, other.program) == (target.architecture, target.program)
            assert other.graph.tensors == target.graph.tensors
            np.testing.assert_array_equal(other.graph.node_types, target.graph.node_types)
            np.testing.assert_array_equal(other.graph.distances, target.graph.distances)
            as_shown += (other.graph.node_shapes != target.graph.node_shapes).any()
    assert 8 <= as_shown <= 22


def test_the_shapes_shown_are_those_of_a_twin(monkeypatch):
    monkeypatch.setattr("ghn_jax.training.meta_batches.shown_width", lambda seed, position, share: 128)
    (batch,) = itertools.islice(meta_batches(TrainConfig(meta_batch=3, wider_shapes=1.0), CIFAR10), 1)
    for target in batch.targets:
        twin = graph_of(lower(dataclasses.replace(target.architecture, C=128), CIFAR10))
        np.testing.assert_array_equal(target.graph.node_shapes, twin.node_shapes)
        np.testing.assert_array_equal(target.graph.distances, twin.distances)


def test_types_of_ghn3():
    """A Graphormer multiplies in the type that the networks compute in, also from weights that began in another."""
    for name in ("float32", "bfloat16"):
        assert TrainConfig(ghn="ghn3t", compute_dtype=name).hypernetwork(CIFAR10).embedder_dtype == name
        assert TrainConfig(ghn="ghn2", compute_dtype=name).hypernetwork(CIFAR10).embedder_dtype == "float32"


def test_a_start_may_have_another_type(tmp_path):
    given = HypernetConfig(
        max_shape=(6, 4, 3, 3), hypernet="graphormer", decoder="conv3", weight_norm=True, ve=True, layernorm=True,
        hid=8, heads=2, layers=1,
    )  # fmt: skip
    params = GHN.init(given, seed=0).params
    run_checkpoints.save(tmp_path, checkpoint.Description(given, CIFAR10, 1, {}), {"params": params})
    found = loop.start_params(TrainConfig(start=str(tmp_path)), dataclasses.replace(given, embedder_dtype="bfloat16"))
    jax.tree.map(np.testing.assert_array_equal, found, params)


SHORT = dataclasses.replace(PLAIN, n_cells=1, C=8, fc_dim=16)
TARGET = make_network(5, SHORT, CIFAR10)


def gradient(targets, batch, **fields):
    """Of the mean loss; all tests take two networks, one twice if need be, and so share what is compiled."""
    ghn = GHN.init(SMALL, seed=0)
    config = TrainConfig(batch_size=len(batch[0]), meta_batch=len(targets), **fields)
    optimizer = optax.sgd(1.0)
    state = parallel.replicate(init_state(ghn.params, optimizer))
    with contextlib.closing(Engine(config, SMALL, optimizer)) as engine:
        state, metrics = engine.step(state, engine.prepare(state, targets), *batch)
    new = parallel.first_copy(state).params
    return jax.tree.map(lambda old, new: old - new, ghn.params, new), parallel.first_copy(metrics)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 32, 32, 3)).astype(np.float32), np.array([0, 1, 2, 3], np.int32)


def test_every_network_sees_images_of_its_own(batch):
    """Losses are those on the first and the second half; the gradient is the mean of both."""
    images, labels = batch
    halves = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    alone = [gradient((TARGET, TARGET), half) for half in halves]
    ghn = GHN.init(SMALL, seed=0)
    config = TrainConfig(batch_size=2, meta_batch=2, own_images=True)
    assert (config.images_of_step, dataclasses.replace(config, own_images=False).images_of_step) == (4, 2)
    optimizer = optax.sgd(1.0)
    state = parallel.replicate(init_state(ghn.params, optimizer))
    with contextlib.closing(Engine(config, SMALL, optimizer)) as engine:
        state, metrics = engine.step(state, engine.prepare(state, (TARGET, TARGET)), *batch)
    losses = parallel.first_copy(metrics).losses[0]
    np.testing.assert_allclose(losses, [m.losses[0, 0] for _, m in alone], rtol=1e-5)
    assert losses[0] != losses[1]
    found = jax.tree.map(lambda old, new: old - new, ghn.params, parallel.first_copy(state).params)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(g for g, _ in alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), found, mean)


def test_the_norm_penalty_is_that_of_every_tensor(batch):
    """The gradient it adds is that of the sum of norms, by finite differences along it."""
    half = batch[0][:2], batch[1][:2]
    plain, _ = gradient((TARGET, TARGET), half)
    with_penalty, metrics = gradient((TARGET, TARGET), half, norm_penalty=0.03)
    added = jax.tree.map(lambda a, b: a - b, with_penalty, plain)
    params = GHN.init(SMALL, seed=0).params

    def norms(params):
        predicted = predict_params(TARGET.graph, GHN(SMALL, params))
        return float(sum(np.linalg.norm(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(predicted)))

    size = float(optax.tree.norm(added))
    up, down = (norms(jax.tree.map(lambda p, g, s=s: p + s * 1e-2 / size * g, params, added)) for s in (1, -1))
    assert 0.03 * (up - down) / 2e-2 == pytest.approx(size, rel=0.02)
    assert np.isfinite(metrics.losses).all() and size > 1e-3


def test_every_network_sees_images_of_its_size(batch):
    half = make_network(7, SHORT, dataclasses.replace(CIFAR10, image_size=16))
    images, labels = batch[0][:2], batch[1][:2]
    _, metrics = gradient((TARGET, half), (images, labels))
    ghn = GHN.init(SMALL, seed=0)
    for loss, target, seen in zip(metrics.losses[0], (TARGET, half), (images, smaller(images, 16)), strict=True):
        logits = whole.run(target.program, predict_params(target.graph, ghn), seen)
        assert float(loss) == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)


def test_a_run_with_all_of_it_goes_on_bit_for_bit(tmp_path, small_hypernetwork, small_networks):
    """Interrupted after every step; what is kept is the average, and the weights beside it."""
    recipe = {
        "optimizer": "muon", "schedule": "cosine", "warm_up": 0.5, "average": 0.9, "norm_penalty": 1e-4,
        "small_images": 16, "small_until": 0.5,
    }  # fmt: skip
    config = dataclasses.replace(small_config(tmp_path / "whole", **recipe))
    assert loop.train(config).step == 2
    parts = dataclasses.replace(config, workdir=str(tmp_path / "parts"), max_minutes=1e-9)
    for step in (1, 2):
        assert loop.train(parts).step == step
    like = jax.eval_shape(lambda: init_state(GHN.init(SMALL, 0).params, make_optimizer(config)))
    like = {"params": like.params, "trained": like.params, "opt_state": jax.tree.leaves(like.opt_state)}
    kept, in_parts = (checkpoint.load_arrays(tmp_path / name, like) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, kept, in_parts)
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), kept["params"], kept["trained"])
    assert max(jax.tree.leaves(apart)) > 1e-5
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_ghn(tmp_path / "parts").params, kept["params"])
    with pytest.raises(ConfigError, match="average was 0.9, is None"):
        loop.train(dataclasses.replace(parts, average=None))
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer='sgd': expected 'adam' or 'adamw' or 'muon'"),
        ({"schedule": "linear"}, "schedule='linear': expected 'steps' or 'cosine'"),
        ({"warm_up": 1.0}, "warm_up=1.0"),
        ({"average": 1.0}, "average=1.0"),
        ({"norm_penalty": -1.0}, "norm_penalty=-1.0"),
        ({"wider_shapes": 1.5}, "wider_shapes=1.5"),
        ({"small_images": 0}, "small_images=0"),
        ({"small_until": 1.5}, "small_until=1.5"),
    ],
)
def test_bad_recipes(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_fields(fields)


def test_small_images_divide_those_of_the_run():
    with pytest.raises(ConfigError, match="small_images=12: expected a divisor of the images' 32 pixels"):
        TrainConfig(small_images=12).hypernetwork(CIFAR10)
