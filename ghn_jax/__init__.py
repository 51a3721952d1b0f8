"""Graph hypernetworks in JAX: one forward pass predicts all parameters of a network never seen before.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ghn_jax.deepnets.lookup import find_architecture
    from ghn_jax.errors import GHNError
    from ghn_jax.evaluation.accuracy import measure_accuracy
    from ghn_jax.evaluation.best_start import Start, StartError, best_start
    from ghn_jax.execution.compiling import CompilationError
    from ghn_jax.execution.operations import ExecutionError
    from ghn_jax.ghn.config import ConfigError
    from ghn_jax.ghn.model import GHN
    from ghn_jax.graphs.drawing import visualize
    from ghn_jax.graphs.graph import Graph, GraphError
    from ghn_jax.graphs.tables import edge_table, from_networkx, node_table, to_networkx
    from ghn_jax.images.errors import ImageError
    from ghn_jax.networks.architecture import Architecture, ArchitectureError, Genotype, ResNet, Task, named
    from ghn_jax.networks.program_graph import build_graph
    from ghn_jax.prediction.embed import embed
    from ghn_jax.prediction.forecast import Forecast
    from ghn_jax.prediction.predict import predict_params, warm_up
    from ghn_jax.prediction.report import Report, Verdict, report
    from ghn_jax.tracing.calibrate import CalibrationError, calibrate
    from ghn_jax.tracing.errors import TraceError
    from ghn_jax.tracing.fill import fill
    from ghn_jax.tracing.frontends import trace
    from ghn_jax.weights.errors import CheckpointError
    from ghn_jax.weights.hub import HubError, from_hub, push_to_hub
    from ghn_jax.weights.loading import load, provenance
    from ghn_jax.weights.saving import load_params, save

# Importing the package loads nothing: a name brings its module when it is first used.
_MODULE_OF = {
    "Architecture": "networks.architecture",
    "ArchitectureError": "networks.architecture",
    "CalibrationError": "tracing.calibrate",
    "CheckpointError": "weights.errors",
    "CompilationError": "execution.compiling",
    "ConfigError": "ghn.config",
    "ExecutionError": "execution.operations",
    "Forecast": "prediction.forecast",
    "GHN": "ghn.model",
    "GHNError": "errors",
    "Genotype": "networks.architecture",
    "Graph": "graphs.graph",
    "GraphError": "graphs.graph",
    "HubError": "weights.hub",
    "ImageError": "images.errors",
    "Report": "prediction.report",
    "ResNet": "networks.architecture",
    "Start": "evaluation.best_start",
    "StartError": "evaluation.best_start",
    "Task": "networks.architecture",
    "TraceError": "tracing.errors",
    "Verdict": "prediction.report",
    "best_start": "evaluation.best_start",
    "build_graph": "networks.program_graph",
    "calibrate": "tracing.calibrate",
    "edge_table": "graphs.tables",
    "embed": "prediction.embed",
    "fill": "tracing.fill",
    "find_architecture": "deepnets.lookup",
    "from_hub": "weights.hub",
    "from_networkx": "graphs.tables",
    "load": "weights.loading",
    "load_params": "weights.saving",
    "measure_accuracy": "evaluation.accuracy",
    "named": "networks.architecture",
    "node_table": "graphs.tables",
    "predict_params": "prediction.predict",
    "provenance": "weights.loading",
    "push_to_hub": "weights.hub",
    "report": "prediction.report",
    "save": "weights.saving",
    "to_networkx": "graphs.tables",
    "trace": "tracing.frontends",
    "visualize": "graphs.drawing",
    "warm_up": "prediction.predict",
}

__all__ = [
    "Architecture",
    "ArchitectureError",
    "CalibrationError",
    "CheckpointError",
    "CompilationError",
    "ConfigError",
    "ExecutionError",
    "Forecast",
    "GHN",
    "GHNError",
    "Genotype",
    "Graph",
    "GraphError",
    "HubError",
    "ImageError",
    "Report",
    "ResNet",
    "Start",
    "StartError",
    "Task",
    "TraceError",
    "Verdict",
    "best_start",
    "build_graph",
    "calibrate",
    "edge_table",
    "embed",
    "fill",
    "find_architecture",
    "from_hub",
    "from_networkx",
    "load",
    "load_params",
    "measure_accuracy",
    "named",
    "node_table",
    "predict_params",
    "provenance",
    "push_to_hub",
    "report",
    "save",
    "to_networkx",
    "trace",
    "visualize",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
