"""Model cards: what a hypernetwork is, where it comes from and what it cannot do, as the Hugging Face hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax

from ghn_jax.ghn.config import title
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import pretrained

_PAPER = "[Parameter Prediction for Unseen Deep Architectures](https://arxiv.org/abs/2110.13100)"

# What the hub calls the data sets.
_DATASETS = {
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "imagenet": "ILSVRC/imagenet-1k",
}


def make(ghn: GHN, repo_id: str, provenance: Mapping[str, Any]) -> str:
    """The card as Markdown, with a header in YAML.

    Args:
      ghn: the hypernetwork.
      repo_id: where it will be, as "user/name".
      provenance: what is known of it; nothing is made up for what is not in it.
    """
    count = sum(leaf.size for leaf in jax.tree.leaves(ghn.params))
    config = ghn.config
    name = title(config)
    kind = name if name != config.hypernet else f"Hypernetwork ({name})"
    dataset = provenance.get("dataset")
    trained = f" trained on {dataset}" if dataset else ""
    parts = [
        _header(provenance),
        f"# {kind}{trained}",
        f"Predicts all parameters of an image classifier from its computational graph in one forward pass ({_PAPER}, "
        "Knyazev et al., NeurIPS 2021). For the JAX package `ghn_jax`:",
        "```python\nimport ghn_jax\n\n"
        f"ghn = ghn_jax.from_hub({json.dumps(repo_id)})\n"
        "graph = ghn_jax.trace(model, images)  # any Flax model\n"
        "params = ghn_jax.predict_params(graph, ghn)\n```",
        _limits(ghn),
        "## Accuracy",
        _accuracy(provenance),
        "## The hypernetwork",
        _table(("field", "value"), [*_fields(vars(config)), ("parameters", f"{count:,}")]),
        "## Where it comes from",
        _origin(provenance),
    ]
    return "\n\n".join(parts) + "\n"


def _header(provenance: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    dataset = _DATASETS.get(str(provenance.get("dataset")))
    data = ModelCardData(
        license=str(provenance["licence"]).lower() if "licence" in provenance else None,
        library_name="ghn_jax",
        tags=["graph-hypernetwork", "parameter-prediction", "jax", "flax"],
        datasets=[dataset] if dataset else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _limits(ghn: GHN) -> str:
    """What nobody should expect."""
    out, inputs, height, width = ghn.config.max_shape
    return (
        f"It predicts networks for {ghn.config.num_classes} classes, of the images it was trained on. Their accuracy "
        "is well below that of trained networks: predicted parameters are a start for training, or a way to compare "
        "architectures. Running statistics of batch norms are not predicted: use those of a batch "
        f"(`ghn_jax.calibrate`). Tensors larger than {out}x{inputs}x{height}x{width} repeat what was decoded. "
        "`ghn_jax.report(graph)` says what of a model is unlike anything seen in training."
    )


def _accuracy(provenance: Mapping[str, Any]) -> str:
    rows = pretrained.measured_accuracies(provenance)
    if not rows:
        return "Not recorded."
    columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    table = [(place, *(_percent(figures.get(name)) for name in columns)) for place, figures in rows.items()]
    what = provenance["accuracy"].get("what")
    what = what if isinstance(what, str) else ""
    return (f"{what[:1].upper()}{what[1:]}.\n\n" if what else "") + _table(("", *columns), table)


def _percent(figure: float | None) -> str:
    """A share as a percentage; counts stay counts."""
    if figure is None:
        return ""
    return f"{figure:.1%}" if isinstance(figure, float) and 0 <= figure <= 1 else f"{figure:,}"


def _origin(provenance: Mapping[str, Any]) -> str:
    apart = ("task", "train_config", "started_from")
    known = {name: value for name, value in provenance.items() if name not in ("accuracy", *apart)}
    parts = [_table(("", ""), list(_fields(known)))] if known else ["Nothing is recorded about its training."]
    for name in apart:
        if isinstance(provenance.get(name), Mapping):
            parts.append(f"`{name}`:\n\n" + _table(("field", "value"), list(_fields(provenance[name]))))
    return "\n\n".join(parts)


def _fields(values: Mapping[str, Any]):
    for name, value in values.items():
        yield name, value if isinstance(value, str) else json.dumps(value)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its cell, and no HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
