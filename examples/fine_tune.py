"""Fine-tuning from predicted parameters, beside training from the model's own initialisation.

    python examples/fine_tune.py                          # Fashion-MNIST, which the shipped hypernetwork was trained on
    python examples/fine_tune.py --dataset=digits         # images that it has never seen

Prints the accuracy on test images after every few steps, for both.
"""

import argparse
from functools import partial

import jax
import numpy as np
import optax
from models.resnet import BasicBlock, ResNet
from tqdm import tqdm

import ghn_jax
from ghn_jax import images

BATCH, TEST_IMAGES, LEARNING_RATE = 64, 1024, 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion_mnist", choices=sorted(images.LOADERS))
    parser.add_argument("--data_dir", help="where its files are")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=20, help="steps from one evaluation to the next")
    args = parser.parse_args()
    dataset = images.load(args.dataset, args.data_dir)
    # A ResNet that is no network of DeepNets-1M.
    model = ResNet((1, 1, 1), BasicBlock, num_classes=dataset.num_classes, num_filters=32, small_images=True)
    sample = np.zeros((BATCH, 32, 32, 3), np.float32)

    graph = ghn_jax.trace(model, sample)
    starts = {"predicted": ghn_jax.predict_params(graph)}
    variables = model.init(jax.random.key(0), sample)
    starts["initialised"] = variables["params"]
    stats = variables["batch_stats"]
    optimizer = optax.adam(LEARNING_RATE)

    def logits(params, x):
        # Normalised by the batch, as in training.
        return model.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])[0]

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, state, x, labels):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def correct(params, x, labels):
        return logits(params, x).argmax(axis=-1) == labels

    test = images.Split(dataset.test.images[:TEST_IMAGES], dataset.test.labels[:TEST_IMAGES])

    def accuracy(params):
        hits = [correct(params, *batch)[:count] for batch, count in images.eval_batches(test, dataset, BATCH)]
        return float(np.concatenate(hits).mean())

    print(ghn_jax.report(graph).summary)
    curves = {}
    with tqdm(total=2 * args.steps, unit="step", leave=False) as bar:
        for name, params in starts.items():
            params = jax.tree.map(jax.numpy.array, params)
            state = optimizer.init(params)
            curves[name] = [accuracy(params)]
            for step in range(args.steps):
                params, state = train_step(params, state, *images.train_batch(dataset, BATCH, seed=0, step=step))
                bar.update()
                if (step + 1) % args.every == 0:
                    curves[name].append(accuracy(params))
    print(f"\nAccuracy on {len(test.labels)} test images of {dataset.name}\n")
    print(f"{'steps':>8}" + "".join(f"{name:>14}" for name in curves))
    for row in range(args.steps // args.every + 1):
        print(f"{row * args.every:8}" + "".join(f"{100 * curve[row]:13.1f}%" for curve in curves.values()))


if __name__ == "__main__":
    main()
