# %% [markdown]
# # Train a hypernetwork on all chips of the runtime
#
# The networks of a meta-batch are dealt out to the chips; each runs its own, and all update the hypernetwork together.
# A run that is interrupted goes on with the same cell, from its last checkpoint.
#
# **Runtime:** a TPU, all of whose chips are used; a GPU or a CPU work as well. The first steps compile: on a TPU expect
# minutes before the first one. Compiled programs are kept on the mounted drive.

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
# ## A place that outlives the runtime
#
# In Colab that is your Drive. Elsewhere it is a folder beside the notebook. Checkpoints and compiled programs go there.

# %%
import shutil

try:
    from google.colab import drive
except ImportError:
    workplace = Path("runs")
else:
    drive.mount("/content/drive")
    workplace = Path("/content/drive/MyDrive/ghn_jax")
workplace.mkdir(parents=True, exist_ok=True)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(workplace / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
workdir = workplace / ("small" if SMALL else "fashion_mnist")
START_AGAIN = SMALL  # False: go on with what is there
if START_AGAIN:
    shutil.rmtree(workdir, ignore_errors=True)
print(workdir, "has", "a run to go on with" if (workdir / "checkpoints").is_dir() else "no run yet")

# %% [markdown]
# ## Images
#
# Fashion-MNIST: 30 MB, fetched unless it is there. Without a network the notebook goes on with the digits.

# %%
from ghn_jax import images
from ghn_jax.images.fetching import fetch_fashion_mnist

data_dir = "data/fashion-mnist"
try:
    try:
        data = images.load("fashion_mnist", data_dir if os.path.isdir(data_dir) else None)
    except ghn_jax.ImageError:
        data = images.load("fashion_mnist", fetch_fashion_mnist(data_dir))
except ghn_jax.ImageError as error:
    print(error, "\n\nGoing on with the digits of scikit-learn.")
    data = images.load("digits")
print(f"{data.name}: {len(data.train.labels):,} training images, {data.num_classes} classes")

# %% [markdown]
# ## The run
#
# A meta-batch holds as many networks as it takes to give every chip the same number.

# %%
from ghn_jax.training.config import TrainConfig

chips = jax.device_count()
a_chip = 2 if chips == 1 else 1
config = TrainConfig(
    dataset=data.name,
    data_dir=data_dir if os.path.isdir(data_dir) else None,
    workdir=str(workdir),
    start="ghn2_fashion_mnist" if SMALL else "random",
    steps=4 if SMALL else 8000,
    meta_batch=chips * a_chip,
    batch_size=16 if SMALL else 64,
    network_clip_norm=1.0,
    fixed_width=32,
    max_multiply_adds=12_000_000 if SMALL else 40_000_000,
    max_minutes=None if SMALL else 60.0,
    val_networks=0 if SMALL else 20,
)
print(f"{chips} chip(s), {config.meta_batch} networks a step: {config.meta_batch // chips} for each")

# %% [markdown]
# The curve is drawn anew every few seconds while the run goes on. To interrupt it, stop the cell: it ends after the
# step at hand, with a checkpoint.

# %%
from ghn_jax.training.live import train_live

outcome = train_live(config, seconds=10)
print(f"{outcome.step} of {outcome.steps} steps, {outcome.minutes:.1f} minutes")

# %% [markdown]
# ## After a disconnect
#
# Run all cells again. The run finds its checkpoint and goes on; it ends with the same parameters, bit for bit, as one
# that was never interrupted. Here a finished run says so:

# %%
outcome = train_live(config)

# %% [markdown]
# ## Evaluation
#
# Networks of the test split, which the hypernetwork has never seen, beside He initialisation.

# %%
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.evaluation.accuracy import evaluate
from ghn_jax.networks.network import make_network

ghn = ghn_jax.load(str(workdir))
targets = []
index = 0
while len(targets) < (2 if SMALL else 20):
    network = make_network(index, sample_architecture("test", index), data.task)
    if network.program.multiply_adds <= config.max_multiply_adds:
        targets.append((f"test {index}", network))
    index += 1


def show(result):
    print(f"{result.name:10}  predicted {result.predicted:6.1%}   He initialisation {result.he_init:6.1%}")


results = evaluate(ghn, targets, data, data.test, 64 if SMALL else 512, show)
print(f"mean        predicted {sum(r.predicted for r in results) / len(results):6.1%}")

# %% [markdown]
# ## Keep it
#
# One file with configuration and provenance, which `ghn_jax.load` reads.

# %%
path = ghn_jax.save(ghn, "my_ghn.safetensors", provenance=ghn_jax.provenance(str(workdir)), overwrite=True)
print(path, ghn_jax.load(path).config == ghn.config)
