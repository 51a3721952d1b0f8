"""Public models, traced and predicted: what of them is predicted, what their outputs are like, and how long it takes.

    python benchmarks/trace_models.py                         # the models of examples/models
    python benchmarks/trace_models.py --all                   # all packages that are installed; others are named
    python benchmarks/trace_models.py --all --small           # few of each, small: a check of minutes
    python benchmarks/trace_models.py --all --out=FILE        # records them; those that FILE has are not done again
    python benchmarks/trace_models.py --all --small --check=FILE  # and fails where they differ from a record
    python benchmarks/trace_models.py --compare --out=FILE    # graphs of the same model from several sources
    python benchmarks/trace_models.py --table=FILE            # what is recorded, as Markdown
    python benchmarks/trace_models.py --compare --table=FILE

Parameters are random, nothing is downloaded.  "again" is the second trace of a model and the second prediction for its
graph; times are CPU time, of all threads together.  Most of a first trace is Flax's or Keras's own Python code.
Deviations are those of the main output: with the model's own parameters, then with predicted ones; running statistics
and other states are as initialised.

With `--compare`, models have no values and are traced only: how many nodes of each type there are.

Ends with 1 if a model cannot be traced, if what is predicted has not the structure, shapes and types of the model's own
parameters, or if an output is not finite.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import public_models  # noqa: E402
from public_models.case import Case, shapes_only  # noqa: E402

import ghn_jax  # noqa: E402
from ghn_jax.cli.common import make_parser  # noqa: E402
from ghn_jax.graphs.graph import NODE_TYPES, Graph  # noqa: E402


def timed(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
    """Its result and CPU milliseconds."""
    begin = time.process_time()
    result = jax.block_until_ready(function(*args, **options))
    return result, 1e3 * (time.process_time() - begin)


def measure(source: str, case: Case) -> dict[str, Any]:
    """All figures of a model."""
    jax.block_until_ready(jax.tree.leaves((case.model, case.inputs)))
    graph, first = timed(ghn_jax.trace, case.model, *case.inputs, **case.options)
    _, again = timed(ghn_jax.trace, case.model, *case.inputs, **case.options)
    params, first_prediction = timed(ghn_jax.predict_params, graph)
    _, prediction = timed(ghn_jax.predict_params, graph)
    own = case.own()
    check_tree(params, own)
    outputs = [case.output(tree) for tree in (own, params)]
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError("an output is not finite")
    return {
        "source": source, "package": case.package, "version": version_of(case.package), "reduced": case.reduced,
        **described(graph), "deviations": [float(output.std()) for output in outputs],
        "milliseconds": {"trace": [first, again], "prediction": [first_prediction, prediction]},
    }  # fmt: skip


def check_tree(params: Any, own: Any) -> None:
    """Raises unless structure, shapes and types are those of the model's own parameters."""
    if jax.tree.structure(params) != jax.tree.structure(own):
        raise ValueError("the structure of the predicted parameters differs from the model's")
    for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(own), strict=True):
        if hasattr(old, "shape") and (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ValueError(
                f"a parameter of {old.dtype}{list(old.shape)} is predicted as {new.dtype}{list(new.shape)}"
            )


def described(graph: Graph) -> dict[str, Any]:
    """What the graph and the report say."""
    report = ghn_jax.report(graph)
    left: dict[str, list[str]] = {}
    for row in report.of(ghn_jax.Verdict.INITIALISED):
        left.setdefault(row.reasons[0], []).append(row.name)
    states: Counter[str] = Counter(row.reasons[0] for row in report.of(ghn_jax.Verdict.STATE))
    notes = [remark for remark in report.remarks if not remark.startswith("extrapolating: input")]
    assert graph.tree is not None
    return {
        "parameters": sum(row.size for row in report.rows if row.verdict is not ghn_jax.Verdict.STATE),
        "nodes": dict(Counter(NODE_TYPES[node_type] for node_type in graph.node_types)),
        "predicted": report.share_predicted, "left": left, "states": dict(states), "notes": notes,
    }  # fmt: skip


def version_of(package: str) -> str:
    """Of a distribution; that of this package for its own examples."""
    return ghn_jax.__version__ if package.startswith("examples") else importlib.metadata.version(package)


def graph_of(source: str, case: Case) -> dict[str, Any]:
    """The graph of a model without values."""
    graph = ghn_jax.trace(case.model, *case.inputs, **case.options)
    return {
        "source": source, "package": case.package, "version": version_of(case.package), "reduced": case.reduced,
        **described(graph),
    }  # fmt: skip


SAME = {
    "ResNet-18": (
        "examples ResNet-18", "flaxmodels ResNet18", "jax-resnet ResNet18", "hk.nets.ResNet18", "keras-hub ResNet-18",
    ),
    "ResNet-50": (
        "examples ResNet-50", "flaxmodels ResNet50", "hk.nets.ResNet50", "keras.applications.ResNet50",
        "transformers ResNet-50", "keras-hub ResNet-50",
    ),
    "ViT-S/16": ("examples ViT-S/16", "equimo vit_small_patch16_224", "keras-hub ViT-S/16"),
    "MobileNetV2": ("examples MobileNetV2", "keras.applications.MobileNetV2"),
    "EfficientNet-B0": ("examples EfficientNet-B0", "keras.applications.EfficientNetB0"),
    "ConvNeXt-T": (
        "examples ConvNeXt-T", "keras.applications.ConvNeXtTiny", "equimo convnext_t", "jax-models convnext-tiny",
    ),
    "BERT": ("transformers BERT", "keras-hub BERT"),
    "GPT-2": ("transformers GPT-2", "keras-hub GPT-2"),
    "Mixer-S/16": ("examples MLP-Mixer-S/16", "jax-models mlpmixer-s16"),
}  # fmt: skip
"""Models that several sources have."""


def compared(known: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A table for every model: the sources, and how many nodes of each type they have."""
    for model, names in SAME.items():
        rows = {name: known[name]["nodes"] for name in names if name in known}
        types = [kind for kind in NODE_TYPES if any(kind in nodes for nodes in rows.values())]
        yield f"\n| {model} | {' | '.join(types)} | parameters |\n|{'---|' * (len(types) + 2)}"
        for name, nodes in rows.items():
            numbers = [str(nodes.get(kind, "")) for kind in types]
            yield f"| {name} | {' | '.join(numbers)} | {known[name]['parameters']:,} |"


Figures = Callable[[str, Case], dict[str, Any]]


def rows_of(
    sources: list[str], small: bool, wanted: Callable[[str], bool], figures: Figures
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and figures of all models that are wanted; an error instead of figures where there is one."""
    for source in sources:
        if absent := public_models.missing(source):
            print(f"left out: {source}, {', '.join(absent)} is not installed", file=sys.stderr)
            continue
        for name, build in public_models.cases(source, small).items():
            if not wanted(name):
                continue
            try:
                yield name, figures(source, build())
            except Exception as error:  # of any package; it is reported, and others are tried
                traceback.print_exc()
                yield name, {"source": source, "error": f"{type(error).__name__}: {error}"}
            gc.collect()


HEADER = (
    "| model | version | parameters | nodes | predicted | states, left | deviation: own, predicted "
    "| graph: first, again | prediction: again |\n|---|---|---|---|---|---|---|---|---|"
)


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"| {name} | {row['source']} | **{row['error'].splitlines()[0][:200]}** |||||||"
    aside = [f"{number} states ({reason})" for reason, number in row["states"].items()]
    aside += [f"{len(names)} left: {reason}" for reason, names in row["left"].items()]
    aside += [note for note in row["notes"] if "extrapolating" not in note]
    note = f" ({row['reduced']})" if row["reduced"] else ""
    times = row.get("milliseconds", {})
    return (
        f"| {name}{note} | {row['package']} {row['version']} | {row['parameters'] / 1e6:.2f}M "
        f"| {sum(row['nodes'].values())} | {100 * row['predicted']:.1f}% | {'; '.join(aside)} "
        f"| {numbers(row.get('deviations', ()), '.2g')} | {numbers(times.get('trace', ()), '.0f', ' ms')} "
        f"| {numbers(times.get('prediction', ())[1:], '.0f', ' ms')} |"
    )


def numbers(values: Sequence[float | None], form: str, unit: str = "") -> str:
    """Numbers in one cell; those that were not measured are dashes."""
    return ", ".join("-" if value is None else f"{value:{form}}{unit}" for value in values) or "-"


def read(path: str) -> dict[str, dict[str, Any]]:
    """Recorded figures by the name of the model; the last of several."""
    if not Path(path).exists():
        return {}
    rows = [json.loads(text) for text in Path(path).read_text().splitlines()]
    return {row.pop("model"): row for row in rows}


def differences(row: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What of a model is read otherwise than recorded."""
    keys = ("parameters", "nodes", "predicted", "left", "states")
    return [f"{key}: {row[key]} instead of {recorded[key]}" for key in keys if row[key] != recorded[key]]


def main() -> int:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--all", action="store_true", help="models of all packages that are installed")
    parser.add_argument("--sources", default="examples", help=f"of {', '.join(public_models.SOURCES)}")
    parser.add_argument("--small", action="store_true", help="a few models of each, small")
    parser.add_argument("--compare", action="store_true", help="graphs of models that several sources have")
    parser.add_argument("--out", default="", help="a file of one JSON object a line, to be added to")
    parser.add_argument("--check", default="", help="such a file that graphs must agree with")
    parser.add_argument("--table", default="", help="prints the models of such a file instead")
    args = parser.parse_args()
    if args.table:
        known = read(args.table)
        print("\n".join(compared(known) if args.compare else [HEADER, *(line(*item) for item in known.items())]))
        return 0
    sources = list(public_models.SOURCES) if args.all or args.compare else args.sources.split(",")
    known, recorded = read(args.out) if args.out else {}, read(args.check) if args.check else {}
    chosen = {name for names in SAME.values() for name in names}
    shapes_only.set(args.compare)
    failed = 0
    print(HEADER)
    rows = rows_of(
        sources, args.small, lambda name: name not in known and (name in chosen or not args.compare),
        graph_of if args.compare else measure,
    )  # fmt: skip
    for name, row in rows:
        print(line(name, row), flush=True)
        wrong = [row["error"]] if "error" in row else []
        if args.check and not wrong:
            wrong = differences(row, recorded[name]) if name in recorded else ["it is not recorded"]
        for text in wrong:
            print(f"{name}: {text}", file=sys.stderr)
        failed += len(wrong)
        if args.out and "error" not in row:
            with open(args.out, "a") as file:
                file.write(json.dumps({"model": name, **row}) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
