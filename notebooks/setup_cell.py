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
