"""Graph hypernetworks in JAX: one forward pass predicts all parameters of a network never seen before.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021.
"""

import importlib

__version__ = "0.1.0"

# Importing the package loads nothing; a name brings its module when it is first used.
_MODULE_OF = {
    "predict_params": "ghn_jax.predict",
    "warm_up": "ghn_jax.predict",
    "GHN": "ghn_jax.predict",
    "Architecture": "ghn_jax.architecture",
    "Genotype": "ghn_jax.architecture",
    "ResNet": "ghn_jax.architecture",
    "Task": "ghn_jax.architecture",
    "named": "ghn_jax.architecture",
    "Graph": "ghn_jax.graph",
    "build_graph": "ghn_jax.program_graph",
    "visualize": "ghn_jax.drawing",
    "node_table": "ghn_jax.graph_tables",
    "edge_table": "ghn_jax.graph_tables",
    "to_networkx": "ghn_jax.graph_tables",
    "from_networkx": "ghn_jax.graph_tables",
    "find_architecture": "ghn_jax.deepnets.lookup",
    "load": "ghn_jax.loading",
    "provenance": "ghn_jax.loading",
    "CheckpointError": "ghn_jax.checkpoint",
    "push_to_hub": "ghn_jax.hub",
    "from_hub": "ghn_jax.hub",
    "CalibrationError": "ghn_jax.calibration",
    "trace": "ghn_jax.tracing",
    "TraceError": "ghn_jax.tracing",
    "Report": "ghn_jax.report",
    "Verdict": "ghn_jax.report",
    "calibrate": "ghn_jax.calibration",
    "measure_accuracy": "ghn_jax.evaluation",
    "fill": "ghn_jax.filling",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
