# %% [markdown]
# # The paper's tables, beside ours
#
# Knyazev et al., *Parameter Prediction for Unseen Deep Architectures*, NeurIPS 2021. Every figure of ours has the
# command that made it; `docs/results.md` has the days and the machines.
#
# **Read this first.** The paper trained on GPUs for 300 epochs. Ours were trained for hours on two CPU cores, on about
# one network in 140 of the paper's CIFAR-10 runs. So the question is which *order* comes out, not which height.
#
# **Runtime:** any; a CPU is enough.

# %% tags=["setup"]
# Where the package comes from, if it is not installed: a folder with a clone, or an address for pip ("git+https://...").
SOURCE = ""

import glob
import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

SMALL = os.environ.get("GHN_JAX_SMALL") == "1"  # small sizes, a minute on two CPU cores


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def install(*packages):
    print("installing", *packages)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)


before = version("jax")
tpu = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")) and "JAX_PLATFORMS" not in os.environ
if importlib.util.find_spec("ghn_jax") is None:
    here = [str(folder) for folder in (Path.cwd(), Path.cwd().parent) if (folder / "ghn_jax/__init__.py").is_file()]
    source = SOURCE or (here[0] if here else None)
    if source is None:
        raise SystemExit("ghn_jax is not installed: write where it is into SOURCE, at the top of this cell")
    install(f"ghn_jax[all] @ {source}" if "://" in source else f"{source}[all]")
    importlib.invalidate_caches()
if tpu and (version("libtpu") is None or version("jax") != before):  # jax and libtpu belong together
    install(f"jax[tpu]=={version('jax')}")
if "jax" in sys.modules and version("jax") != before:
    raise SystemExit("jax is new: restart the runtime (in Colab: Runtime, Restart session), then run this cell again")

import jax

import ghn_jax

print(
    f"ghn_jax {ghn_jax.__version__}, jax {jax.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} CPU cores"
)
print(f"{jax.device_count()} device(s):", ", ".join(sorted({device.device_kind for device in jax.devices()})))

# %% [markdown]
# ## Accuracy of predicted networks, by split

# %%
import json

root = next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "results").is_dir()), None)
if root is None:
    print("results/ comes with a clone, and not with the installed package: only the paper's rows follow.")

PAPER = {  # table 2 and section 5 of the paper, CIFAR-10, mean top-1 in %
    "GHN-2": {"test": 66.9, "wide": 64.0, "deep": 60.5, "dense": 65.8, "bnfree": 36.8, "resnet50": 58.6, "vit": 11.4},
    "GHN-1": {"test": 51.4},
    "MLP": {"test": 42.2},
}


def ours(name):
    if root is None:
        return {}
    measured = json.loads((root / "results" / name / "splits.json").read_text())["accuracy"]
    return {kind: {split: 100 * of["mean"] for split, of in rows.items()} for kind, rows in measured.items()}


fashion = ours("fashion_mnist_cpu")
tables = {
    "paper, CIFAR-10": PAPER,
    "ours, CIFAR-10": ours("cifar10_cpu"),
    "shipped, CIFAR-10": ours("cifar10_cpu_more"),
    "ours, Fashion-MNIST": {**fashion, "GHN-2": fashion.get("GHN-2, 17,418 steps", {})},
    "shipped, Fashion-MNIST": {"GHN-2": fashion.get("GHN-2", {})},
}
splits = ["test", "wide", "deep", "dense", "bnfree", "resnet50", "vit"]
print(f"{'':23} {'':10}" + "".join(f"{split:>10}" for split in splits))
for title, rows in tables.items():
    for kind in ("GHN-2", "GHN-1", "MLP"):
        figures = rows.get(kind, {})
        if not figures:
            continue
        shown = [f"{figures[split]:.1f}" if split in figures else "-" for split in splits]
        print(f"{title:23} {kind:10}" + "".join(f"{figure:>10}" for figure in shown))

# %% [markdown]
# "ours" are three hypernetworks trained alike; "shipped" is that GHN-2 trained on, as it comes with the package. The
# commands of our rows, with the images in `DIR`:
#
# ```bash
# python experiments/evaluate_splits.py --dataset=cifar10 --data_dir=DIR --num_images=64 --out=splits_cifar10 \
#     GHN-2=runs/ghn2_cifar GHN-1=runs/ghn1_cifar MLP=runs/mlp_cifar
# python experiments/evaluate_splits.py --dataset=cifar10 --data_dir=DIR --num_images=64 --out=splits GHN-2=ghn2_cifar10
# python experiments/evaluate_splits.py --dataset=fashion_mnist --num_images=64 --out=splits \
#     GHN-2=ghn2_fashion_mnist GHN-1=ghn1_fashion_mnist MLP=mlp_fashion_mnist
# ```

# %%
import matplotlib.pyplot as plt
import numpy as np

figure, rows = plt.subplots(1, len(tables), figsize=(15, 3), sharey=True, layout="constrained")
for axes, (title, table) in zip(rows, tables.items()):
    for offset, kind in enumerate(("GHN-2", "GHN-1", "MLP")):
        figures = table.get(kind, {})
        heights = [figures.get(split, np.nan) for split in splits]
        axes.bar(np.arange(len(splits)) + 0.27 * (offset - 1), heights, width=0.25, label=kind)
    axes.axhline(10, color="0.6", linestyle=":")
    axes.set(title=title, xticks=range(len(splits)))
    axes.set_xticklabels(splits, rotation=45)
rows[0].set_ylabel("mean top-1, %")
figure.legend(*rows[1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# ## One cell of the table, measured here
#
# Unseen networks of the test split, with the GHN-2 of the package; the digits stand in where there is no Fashion-MNIST,
# and then the figure is chance, for it was not trained on them.

# %%
from ghn_jax import images
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation.accuracy import evaluate
from ghn_jax.networks.network import make_network

try:
    data = images.load("fashion_mnist", "data" if os.path.isdir("data") else None)
except ghn_jax.ImageError as error:
    print(error, "\n\nGoing on with the digits.")
    data = images.load("digits")

count = 4 if SMALL else 50
targets = [(f"test {i}", make_network(i, sample_architecture("test", i), data.task)) for i in range(count)]
found = evaluate(ghn_jax.load("ghn2_fashion_mnist"), targets, data, data.test, 64, lambda result: None)
accuracies = [100 * result.predicted for result in found]
error = np.std(accuracies, ddof=1) / np.sqrt(count)
print(f"GHN-2, {data.name}, {count} test networks, 64 images each: {np.mean(accuracies):.1f} +- {error:.1f}")

# %% [markdown]
# ## The method itself
#
# That the method is the paper's does not rest on these tables. The parameters that the published GHN-2, GHN-1 and MLP
# predict for 64 networks differ from the PyTorch original's by a relative 3.4e-6 at most (`docs/parity.md`):
#
# ```bash
# python benchmarks/check_parity.py --reference=DIR
# ```
