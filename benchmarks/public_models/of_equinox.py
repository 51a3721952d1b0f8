"""Packages of Equinox: diffrax, flowjax, pdequinox and Equinox's own layers."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from public_models.case import Case, Cases, function, images, pytree, stateful


def of_equinox(small: bool) -> Cases:
    """Layers of Equinox itself."""

    class Convolutional(eqx.Module):
        layers: list[Any]

        def __init__(self, key: Any):
            keys = jax.random.split(key, 3)
            self.layers = [
                eqx.nn.SpectralNorm(eqx.nn.Conv2d(3, 32, 3, padding=1, key=keys[0]), "weight", key=keys[1]),
                eqx.nn.BatchNorm(32, axis_name="batch", mode="batch"),
                eqx.nn.Linear(32, 10, key=keys[2]),
            ]

        def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
            convolution, norm, linear = self.layers
            x, state = convolution(x, state)
            x, state = norm(x, state)
            return linear(jax.nn.relu(x).mean((1, 2))), state

    def convolutional() -> Case:
        model, states = eqx.nn.make_with_state(Convolutional)(jax.random.key(0))
        batch = images(32, batch=4, channels_first=True)
        return stateful("eqx.nn.SpectralNorm, BatchNorm", "equinox", model, states, batch)

    def recurrent() -> Case:
        class Recurrent(eqx.Module):
            cell: eqx.nn.GRUCell
            linear: eqx.nn.Linear

            def __call__(self, sequence: Any) -> Any:
                step = lambda state, x: (self.cell(x, state), None)  # noqa: E731
                return self.linear(jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), sequence)[0])

        def build(key: Any) -> Any:
            keys = jax.random.split(key)
            return Recurrent(eqx.nn.GRUCell(8, 32, key=keys[0]), eqx.nn.Linear(32, 10, key=keys[1]))

        return pytree("eqx.nn.GRUCell", "equinox", build, np.ones((16, 8), np.float32))

    return {"eqx.nn.SpectralNorm, BatchNorm": convolutional, "eqx.nn.GRUCell": recurrent}


def of_diffrax(small: bool) -> Cases:
    """A neural differential equation."""
    import diffrax

    class Field(eqx.Module):
        mlp: eqx.nn.MLP

        def __call__(self, t: Any, y: Any, args: Any) -> Any:
            return self.mlp(y)

    class NeuralODE(eqx.Module):
        field: Field
        head: eqx.nn.Linear

        def __call__(self, y: Any) -> Any:
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(self.field), diffrax.Tsit5(), t0=0.0, t1=1.0, dt0=0.1, y0=y,
                stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
            )  # fmt: skip
            assert solution.ys is not None
            return self.head(solution.ys[-1])

    def case() -> Case:
        def build(key: Any) -> Any:
            keys = jax.random.split(key)
            mlp = eqx.nn.MLP(4, 4, 32, 2, activation=jnp.tanh, key=keys[0])
            return NeuralODE(Field(mlp), eqx.nn.Linear(4, 10, key=keys[1]))

        return pytree("diffrax neural ODE", "diffrax", build, np.ones(4, np.float32))

    return {"diffrax neural ODE": case}


def of_flowjax(small: bool) -> Cases:
    """Normalising flows: the logarithm of the density."""
    import flowjax.bijections
    import flowjax.distributions
    import flowjax.flows

    def case(name: str) -> Case:
        base = flowjax.distributions.StandardNormal((4,))
        flow = getattr(flowjax.flows, name)(jax.random.key(0), base_dist=base, flow_layers=2)
        batch = np.random.default_rng(0).standard_normal((16, 4), np.float32)
        return function(f"flowjax {name}", "flowjax", lambda flow, x: flow.log_prob(x), flow, batch)

    names = ("coupling_flow",) if small else ("coupling_flow", "masked_autoregressive_flow")
    return {f"flowjax {name}": functools.partial(case, name) for name in names}


def of_pdequinox(small: bool) -> Cases:
    """Emulators of partial differential equations: Fourier neural operator, U-Net."""
    import pdequinox

    def case(name: str) -> Case:
        def build(key: Any) -> Any:
            return getattr(pdequinox.arch, name)(2, 1, 1, hidden_channels=16, key=key)

        batch = np.random.default_rng(0).standard_normal((1, 32, 32), np.float32)
        return pytree(f"pdequinox {name}", "pdequinox", build, batch)

    names = ("ClassicFNO",) if small else ("ClassicFNO", "ModernUNet", "DilatedResNet")
    return {f"pdequinox {name}": functools.partial(case, name) for name in names}
