# %% [markdown]
# # Parameters for your own model
#
# A Linen module, an NNX module, and a plain function of parameters: each is traced, which computes shapes only, and its
# parameters are predicted into exactly its own structure.
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
# ## Flax Linen

# %%
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class Block(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(self.channels, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.channels, (3, 3), use_bias=False)(y)
        return nn.relu(x + nn.BatchNorm(use_running_average=not train)(y))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(nn.Conv(64, (3, 3))(x))
        for _ in range(2):
            x = Block(64)(x, train)
        return nn.Dense(10)(x.mean(axis=(1, 2)))


model, sample = Net(), jnp.ones((64, 32, 32, 3))
graph = ghn_jax.trace(model, sample)
params = ghn_jax.predict_params(graph)
jax.tree.map(jnp.shape, params)

# %% [markdown]
# ## How well will it go? The report
#
# *Seen* shapes and operations were in training; *extrapolating* ones were not; *initialised* parameters keep the
# model's own initial values, because nothing is known about them.

# %%
print(ghn_jax.report(graph))

# %%
ghn_jax.visualize(graph, labels=True, title="Net")

# %% [markdown]
# ## Batch statistics
#
# No training has accumulated running statistics for predicted parameters. `calibrate` computes them from some images of
# yours; without labels.

# %%
from ghn_jax import images

try:
    data = images.load("fashion_mnist", "data" if os.path.isdir("data") else None)
except ghn_jax.ImageError as error:
    print(error, "\n\nGoing on with the digits, which the hypernetwork was not trained for.")
    data = images.load("digits")

batches = [images.train_batch(data, 64, seed=0, step=step).images for step in range(2 if SMALL else 16)]
stats = ghn_jax.calibrate(model, params, batches, train=False)


@jax.jit
def logits(params, stats, x):
    return model.apply({"params": params, "batch_stats": stats}, x, train=False)


def accuracy(params, stats, count=256):
    right = 0
    test = images.Split(data.test.images[:count], data.test.labels[:count])
    for batch, counted in images.eval_batches(test, data, 64):
        right += int((logits(params, stats, batch.images)[:counted].argmax(-1) == batch.labels[:counted]).sum())
    return right / count


random = model.init(jax.random.key(0), sample)
print(f"{data.name}, 256 test images: predicted {accuracy(params, stats):.1%},", end=" ")
print(f"initialised {accuracy(random['params'], ghn_jax.calibrate(model, random['params'], batches, train=False)):.1%}")

# %% [markdown]
# ## Flax NNX
#
# `fill` traces a module, predicts, and puts the parameters into it.

# %%
from flax import nnx

rngs = nnx.Rngs(0)
module = nnx.Sequential(
    nnx.Conv(3, 32, (3, 3), rngs=rngs),
    nnx.relu,
    nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs),
    nnx.relu,
    lambda x: x.mean(axis=(1, 2)),
    nnx.Linear(64, 10, rngs=rngs),
)
graph_of_module = ghn_jax.fill(module, sample)
print(ghn_jax.report(graph_of_module).summary)
print("logits:", np.asarray(module(sample[:1])).round(2))

# %% [markdown]
# ## A function of its parameters
#
# Haiku and Equinox models, and anything else that is a function, are traced the same way. Here is one by hand:


# %%
def mlp(params, x):
    x = x.reshape(len(x), -1)
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


widths = [3 * 32 * 32, 64, 10]
shapes = [
    {"w": jax.ShapeDtypeStruct(pair, jnp.float32), "b": jax.ShapeDtypeStruct(pair[1:], jnp.float32)}
    for pair in zip(widths, widths[1:])
]
graph_of_function = ghn_jax.trace(mlp, shapes, sample)
predicted = ghn_jax.predict_params(graph_of_function)
print(ghn_jax.report(graph_of_function))
print("logits:", np.asarray(mlp(predicted, sample[:1])).round(2))

# %% [markdown]
# ## Export

# %%
for name in ("net.safetensors", "net.npz", "net"):  # the last is a folder of Orbax
    path = ghn_jax.save(params, name, graph=graph, overwrite=True)
    again = ghn_jax.load_params(path, graph)
    same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, again))
    print(f"{name}: read back the same: {same}")
