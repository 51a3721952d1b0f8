# %% [markdown]
# # DeepNets-1M: a million architectures
#
# Drawn when needed, the same on every machine; described, drawn, written and read in the published file format; and
# used to predict properties of networks from the embeddings of their graphs.
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
# ## Draw an architecture

# %%
from ghn_jax.deepnets.sampler import sample_architecture

architecture = sample_architecture("train", 123_456)
print(architecture)
ghn_jax.visualize(ghn_jax.build_graph(architecture), title="train/123456")

# %%
for split, index in (("test", 7), ("bnfree", 3), ("dense", 5)):
    graph = ghn_jax.build_graph(sample_architecture(split, index))
    print(f"{split}/{index}: {graph.num_nodes} nodes, {graph.num_params:,} parameters")
ghn_jax.visualize(ghn_jax.build_graph(sample_architecture("bnfree", 3)), labels=True, title="bnfree/3")

# %% [markdown]
# ## Statistics
#
# `ghn-jax deepnets describe --split=train --num=2000` prints and draws the same for more of them.

# %%
import matplotlib.pyplot as plt
import numpy as np

from ghn_jax.deepnets.statistics import network_statistics, table
from ghn_jax.networks.network import make_network


def describe(split, count):
    drawn = [make_network(i, sample_architecture(split, i), ghn_jax.Task()) for i in range(count)]
    return [network_statistics(one.architecture, one.graph, one.program.num_params_with_unused) for one in drawn]


groups = {split: describe(split, 100 if SMALL else 500) for split in ("train", "test")}
for split, statistics in groups.items():
    print(f"{split}\n{table(statistics)}\n")

# %%
figure, rows = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
for axes, field in zip(rows, ("nodes", "params", "path")):
    for split, statistics in groups.items():
        axes.hist([getattr(one, field) for one in statistics], bins=20, density=True, alpha=0.6, label=split)
    axes.set(xlabel={"params": "parameters, M", "path": "mean shortest path"}.get(field, field), yticks=[])
rows[0].legend()
plt.show()

# %% [markdown]
# ## The published files
#
# A file in the format of the published ones, written here and read back. `DeepNetsFile("deepnets1m_eval.hdf5")` reads
# the original's.

# %%
import shutil

from ghn_jax.deepnets.files.reading import DeepNetsFile, file_name
from ghn_jax.deepnets.files.writing import stored_network, write_file

folder = Path("data/deepnets")
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
path = folder / file_name("val")
write_file(path, {"val": [stored_network("val", index) for index in range(10)]})
with DeepNetsFile(path) as file:
    val = file["val"]
    print(f"{path}: {len(val)} networks; the fourth is the one that is drawn:", end=" ")
    print(val.architecture(3) == sample_architecture("val", 3), val.graph(3).num_nodes, "nodes")

# %% [markdown]
# ## Properties from embeddings
#
# The hypernetwork's embedding of a graph, the mean over its nodes, knows something of the network. Ridge regression
# predicts its size and its cost (multiply-adds) from it, for networks that neither the hypernetwork nor the regression
# has seen. Kendall's tau says how well their order is found: 1 is perfect, 0 is chance.

# %%
from scipy.stats import kendalltau

from ghn_jax.prediction.predict import embed_nodes

ghn = ghn_jax.load("ghn2_cifar10")
count = 120 if SMALL else 500
drawn = [sample_architecture("val" if i < count // 2 else "test", i) for i in range(count)]
networks = [make_network(i, architecture, ghn_jax.Task()) for i, architecture in enumerate(drawn)]
features = np.array([embed_nodes(network.graph, ghn).mean(0) for network in networks])
targets = {
    "parameters": np.log10([network.program.num_params for network in networks]),
    "multiply-adds": np.log10([network.program.multiply_adds for network in networks]),
}


def ridge(features, values, penalty=1e-2):
    """Weights and offset of the regression."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x = (features - mean) / deviation
    weights = np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ (values - values.mean()))
    return lambda new: ((new - mean) / deviation) @ weights + values.mean()


seen, unseen = slice(0, count // 2), slice(count // 2, None)
figure, columns = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for axes, (name, values) in zip(columns, targets.items()):
    predicted = ridge(features[seen], values[seen])(features[unseen])
    tau = kendalltau(predicted, values[unseen]).statistic
    axes.plot(values[unseen], predicted, "o", markersize=3, alpha=0.7)
    low, high = values[unseen].min(), values[unseen].max()
    axes.plot([low, high], [low, high], color="0.6", linewidth=1)
    axes.set(title=f"{name}: tau {tau:.2f}", xlabel="true, log10", ylabel="from the embedding, log10")
plt.show()
