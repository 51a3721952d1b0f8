"""Trains a hypernetwork the plain way, in which every network is compiled as a program of its own.

    python benchmarks/unrolled_training.py --minutes=45 --out=runs/unrolled
    python experiments/evaluate.py --checkpoint=runs/unrolled --split=test --num=50 --num_images=128

Configuration, networks, images and updates are those of `experiments/train.py --config=configs/fashion_mnist.py`; only
the time that a step takes is different.  The hypernetwork itself is compiled once.  Programs of networks are not kept
on disk, since a run meets every network once.  Writes `metrics.jsonl`, which `experiments/plot_run.py` draws beside
those of other runs, and a checkpoint at the end; Ctrl-C ends the run sooner.
"""

import argparse
import contextlib
import dataclasses
import runpy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ghn_jax import images
from ghn_jax.execution import whole
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.fit import fit
from ghn_jax.ghn.hypernetwork import Decoded, Hypernetwork
from ghn_jax.ghn.model import GHN
from ghn_jax.ghn.rows import request
from ghn_jax.graphs import padding
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.network import Network
from ghn_jax.networks.platforms import compiler_options
from ghn_jax.training.config import TrainConfig, from_fields
from ghn_jax.training.inputs import padded_nodes
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.step import TrainState, init_state, update
from ghn_jax.training.watch import METRICS, Watch
from ghn_jax.weights import checkpoint, run_checkpoints
from ghn_jax.weights.checkpoint import Description

_ROWS = 512
"""Numbers of decoded rows are padded to multiples of it, so that the hypernetwork is compiled a few times only."""


class Unrolled:
    """Makes the steps of a run, as `Engine` does, and compiles every network."""

    def __init__(self, config: TrainConfig, ghn: HypernetConfig, optimizer: optax.GradientTransformation):
        self._config = config
        self._ghn = ghn
        model = Hypernetwork(ghn)

        # Pulling back is a pytree of arrays: it can leave one compiled function and enter another.
        def predict(params, graphs, requests):
            return jax.vjp(lambda p: model.apply({"params": p}, graphs, requests), params)

        def apply(state: TrainState, pull_back: Callable, bars: Decoded, losses: jax.Array):
            (gradient,) = pull_back(bars)
            return update(optimizer, state, gradient, losses)[0]

        self._predict = jax.jit(predict)
        self._apply = jax.jit(apply)
        self.compile_seconds = 0.0

    def step(
        self, state: TrainState, targets: Sequence[Network], pixels: np.ndarray, labels: np.ndarray
    ) -> tuple[TrainState, np.ndarray, np.ndarray]:
        """The state after an update, and of every network the loss and the number of images classified correctly."""
        graphs = [target.graph for target in targets]
        nodes = padded_nodes(max(graph.num_nodes for graph in graphs))
        requests, placements = request(graphs, nodes, self._ghn)
        padded = padding.stack([padding.pad(graph, nodes, self._ghn.max_distance) for graph in graphs])
        requests = {table: rows.padded(-(-len(rows.nodes) // _ROWS) * _ROWS) for table, rows in requests.items()}
        decoded, pull_back = self._predict(state.params, padded, requests)
        step_key = jax.random.fold_in(jax.random.key(self._config.seed), state.step)
        decoded = jax.tree.map(np.asarray, decoded)
        bars = jax.tree.map(np.zeros_like, decoded)
        losses, correct = [], []
        for network, (target, places) in enumerate(zip(targets, placements, strict=True)):
            rows = [decoded[place.table][place.start : place.start + place.rows] for place in places]
            args = (rows, pixels, labels, jax.random.fold_in(step_key, network))
            began = time.perf_counter()
            compiled = jax.jit(self._network(target)).lower(*args).compile(compiler_options(jax.default_backend()))
            self.compile_seconds += time.perf_counter() - began
            loss, right, row_bars = compiled(*args)
            losses.append(loss)
            correct.append(right)
            for place, bar in zip(places, row_bars, strict=True):
                bars[place.table][place.start : place.start + place.rows] += np.asarray(bar)
        state = self._apply(state, pull_back, bars, jnp.stack(losses))
        return state, np.stack(losses), np.stack(correct)

    def _network(self, target: Network) -> Callable:
        """Loss of a network, images classified correctly, and its share of the gradient of its decoded rows.

        Rows are taken out of their tables, and gradients put in, outside of it: that compiles much faster.
        """
        config = self._config

        def tensors(rows: list[jax.Array]) -> dict[str, jax.Array]:
            return {
                tensor.name: fit(values, tensor, self._ghn, jnp)
                for tensor, values in zip(target.graph.tensors, rows, strict=True)
            }

        def network(rows: list[jax.Array], pixels: jax.Array, labels: jax.Array, dropout_key: jax.Array):
            def loss(params):
                logits = whole.run(target.program, params, pixels, dropout_key=dropout_key)
                return cross_entropy(logits, labels, config.label_smoothing), jnp.argmax(logits, -1)

            params, pull_back = jax.vjp(tensors, rows)
            (value, answers), bars = jax.value_and_grad(loss, has_aux=True)(params)
            weight = 1 / config.meta_batch
            if config.network_clip_norm is not None:
                weight *= jnp.minimum(1.0, config.network_clip_norm / optax.tree.norm(bars))
            (bars,) = pull_back(jax.tree.map(lambda bar: weight * bar, bars))
            return value, jnp.sum(answers == labels), bars

        return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fashion_mnist.py", help="a file of configs/ (%(default)s)")
    parser.add_argument("--minutes", type=float, default=45.0, help="(%(default)g)")
    parser.add_argument("--out", type=Path, default=Path("runs/unrolled"), help="(%(default)s)")
    args = parser.parse_args()
    config = from_fields(dict(runpy.run_path(args.config)["get_config"]()))
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = images.load(config.dataset, config.data_dir)
    ghn, optimizer = config.hypernetwork(dataset.task), make_optimizer(config)
    state = init_state(GHN.init(ghn, config.seed).params, optimizer)
    unrolled = Unrolled(config, ghn, optimizer)
    drawn = meta_batches(config, dataset.task)
    began, step, minutes = time.monotonic(), 0, 0.0
    with (
        contextlib.suppress(KeyboardInterrupt),
        contextlib.closing(Watch(args.out, 0, config.steps, first=True)) as watch,
    ):
        while step < config.steps and minutes < args.minutes:
            targets = next(drawn).targets
            batch = images.train_batch(dataset, config.batch_size, config.seed, step)
            state, losses, correct = unrolled.step(state, targets, batch.images, batch.labels)
            step, minutes = step + 1, (time.monotonic() - began) / 60
            fields = {
                "step": step,
                "minutes": round(minutes, 4),
                "loss": float(np.mean(losses)),
                "accuracy": float(np.mean(correct)) / config.batch_size,
                "architectures": [target.number for target in targets],
            }
            watch.report(METRICS, fields)
            watch.bar.set_postfix(minutes=f"{minutes:.1f}", loss=f"{fields['loss']:.3f}", refresh=False)
            watch.bar.update()
    description = Description(ghn, dataset.task, step, dataclasses.asdict(config))
    run_checkpoints.save(args.out / checkpoint.FOLDER, description, {"params": state.params})
    print(f"{step} steps in {minutes:.1f} minutes, {unrolled.compile_seconds / 60:.1f} of them compiling: {args.out}")


if __name__ == "__main__":
    main()
