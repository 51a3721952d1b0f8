# %% [markdown]
# # All parameters of a network in one forward pass
#
# A graph hypernetwork reads the graph of a network that it has never seen, and predicts its parameters. No network is
# trained here but at the end, where predicted parameters are the start of fine-tuning.
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
# ## Three lines to a ResNet-50

# %%
network = ghn_jax.named("resnet50")
graph = ghn_jax.build_graph(network)
params = ghn_jax.predict_params(graph)

print(f"{len(params)} arrays, {graph.num_params:,} parameters; conv1.weight: {params['conv1.weight'].shape}")

# %% [markdown]
# The first prediction compiles a few small programs. Later ones do not, whatever the network is:

# %%
import time

begin = time.perf_counter()
jax.block_until_ready(ghn_jax.predict_params(graph))
print(f"{1000 * (time.perf_counter() - begin):.0f} ms")

# %% [markdown]
# ## What was read, and what was predicted
#
# The graph has a node for everything that has parameters, pools or joins. The report says how far each kind of
# parameter is from what the hypernetwork has seen in training.

# %%
ghn_jax.visualize(graph, title="ResNet-50")

# %%
about = ghn_jax.report(graph)
print("\n".join(str(about).splitlines()[:12]))
print("...")
print(about.summary)

# %% [markdown]
# ## Accuracy without training
#
# The hypernetwork in the package was trained on Fashion-MNIST. Without those images the notebook goes on with the
# digits of scikit-learn, which it was *not* trained for: expect chance, 10%, before fine-tuning.

# %%
from ghn_jax import images

try:
    data = images.load("fashion_mnist", "data" if os.path.isdir("data") else None)
except ghn_jax.ImageError as error:
    print(error)
    print("\nGoing on with the digits.")
    data = images.load("digits")

num_images = 128 if SMALL else 1024
accuracy = ghn_jax.measure_accuracy(network, params, data.name, num_images)
print(f"ResNet-50 with predicted parameters, {num_images} test images of {data.name}: {accuracy:.1%} (chance: 10%)")

# %% [markdown]
# ## Fine-tuning: from predicted parameters, and from He initialisation
#
# ResNet-50 is far from the networks of training. One of DeepNets-1M's test split does better, and both starts are
# compared on it: the same images in the same order.

# %%
from ghn_jax.evaluation.fine_tuning import FineTuner
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.lowering import lower

other = ghn_jax.find_architecture("7", split="test").architecture
program = lower(other, data.task)
measure_at = [0, 5, 10, 20] if SMALL else [0, 25, 50, 100, 200, 400]
starts = {
    "predicted": ghn_jax.predict_params(ghn_jax.build_graph(other, data.task)),
    "He initialisation": he_init(program, 0),
}
tuner = FineTuner(measure_at[-1])
curves = {name: tuner(program, start, data, measure_at, num_test_images=num_images) for name, start in starts.items()}

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, curve in curves.items():
    axes.plot(list(curve), [100 * value for value in curve.values()], "o-", label=name)
axes.set(xlabel="steps of 64 images", ylabel=f"top-1 on {data.name}, %", ylim=(0, 100))
axes.axhline(10, color="0.7", linestyle=":")
axes.legend()
axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## Take it away
#
# As safetensors; with `layout="torch"` it loads into `torchvision.models.resnet50(num_classes=10)` for photographs, or
# into any PyTorch model with these names.

# %%
path = ghn_jax.save(params, "resnet50.safetensors", graph=graph, overwrite=True)
print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB")
