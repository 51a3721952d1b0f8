"""Compiling for accelerators that are not there: what is counted, without compiling for any."""

import collections
import dataclasses
import importlib.util
import itertools
import math
import re
import types

import jax
import jax.numpy as jnp
import pytest
import scripts
from example_networks import NETWORKS

from ghn_jax.execution import operations
from ghn_jax.execution.operations import Plan
from ghn_jax.execution.recipes import Backward, Forward, signature_of
from ghn_jax.execution.rehearsal import Chip, Facts, Rehearsal, bytes_of, facts_of
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.primitives import Add, Conv
from ghn_jax.training import engine
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.optimizer import make_optimizer

accelerators = scripts.load("benchmarks/accelerators.py")

CONFIG = TrainConfig(batch_size=2, meta_batch=2, fixed_width=8, max_multiply_adds=2_000_000)


def sizes(tree):
    """Bytes of every array of a tree."""
    return jax.tree.map(lambda leaf: math.prod(leaf.shape) * leaf.dtype.itemsize, tree)


def logical(recipe):
    """Facts of a recipe without a compiler: arrays without padding, no temporaries."""
    return Facts(sizes(recipe.arguments), sizes(jax.eval_shape(recipe, *recipe.arguments)), 0, 0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def step():
    return next(accelerators.steps(CONFIG, CIFAR10))


def form(major_to_minor, *tiling):
    layout = types.SimpleNamespace(major_to_minor=major_to_minor, tiling=tiling)
    return types.SimpleNamespace(layout=layout)


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "expected"),
    [
        ((64, 16, 16, 32), jnp.float32, form((1, 2, 3, 0), (8, 128)), 16 * 16 * 32 * 128 * 4),  # as a TPU has them
        ((64, 16, 16, 96), jnp.float32, form((0, 1, 2, 3), (8, 128)), 64 * 16 * 16 * 128 * 4),
        ((64, 8, 8, 32), jnp.bfloat16, form((1, 2, 3, 0), (8, 128), (2, 1)), 8 * 8 * 32 * 128 * 2),
        ((10,), jnp.float32, form((0,), (128,)), 512),
        ((), jnp.float32, form((), (128,)), 512),
        ((64, 16, 16, 96), jnp.float32, form((0, 1, 2, 3)), 64 * 16 * 16 * 96 * 4),  # as GPUs do
        ((3, 5), jnp.float32, types.SimpleNamespace(layout=None), 60),  # an argument that is not used
    ],
)
def test_tiles_are_filled_up(shape, dtype, layout, expected):
    assert bytes_of(jax.ShapeDtypeStruct(shape, dtype), layout) == expected


def test_facts_of_a_program_for_this_machine():
    x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    facts = facts_of(jax.jit(lambda x, y: (x @ x.T, y)).lower(x, {"y": x}).compile(), flops=1.0)
    assert facts.arguments == (512, {"y": 512})
    assert facts.results == (256, {"y": 512})
    assert facts.flops >= 2 * 8 * 8 * 16  # XLA's count, not ours


@dataclasses.dataclass(frozen=True)
class Program:
    """A recipe of hand-sized arrays."""

    name: str
    donated: tuple = ()

    def __str__(self):
        return self.name


def test_memory_is_taken_as_long_as_arrays_live():
    first, grow, end = Program("first"), Program("grow", donated=(0,)), Program("end")
    facts = {
        first: Facts((), 10, temporaries=5, code=0, flops=0, traffic=0, accessed=0),
        grow: Facts(10, (10, 3), temporaries=0, code=0, flops=0, traffic=0, accessed=0),
        end: Facts((10, 3), 1, temporaries=1, code=0, flops=0, traffic=0, accessed=0),
    }
    device = Rehearsal(facts)
    device.doing = "network 7"
    x = device.get(first)()
    assert (device.taken, device.peak, device.moment) == (10, 15, "network 7, first")
    y, z = device.get(grow)(x)
    assert device.taken == 13  # 10 of them were those of x
    del x
    assert (device.taken, device.peak) == (13, 15)
    w = device.get(end)(y, z)
    assert (device.taken, device.peak, device.moment) == (14, 15, "network 7, first")
    del y, z
    w = device.get(first)()
    assert (device.taken, device.peak) == (10, 16)  # the old w lives until there is a new one
    del w
    assert device.taken == 0
    assert device.dispatched == {first: 2, grow: 1, end: 1}


class Nothing:
    """Parameters without a size."""

    def tensors(self, index):
        return ()

    def receive(self, index, bars):
        pass


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_a_rehearsal_needs_the_memory_that_the_plan_says(name, training):
    plan = Plan(lower(NETWORKS[name], CIFAR10), 4, label_smoothing=0.0 if training else None)
    facts = {recipe: logical(recipe) for recipe in plan.recipes()}
    for recipe in facts:  # gradients of parameters are none of the plan's business
        if isinstance(recipe, Backward):
            facts[recipe] = facts[recipe]._replace(results=((), facts[recipe].results[1]))
    device = Rehearsal(facts)
    network, image_bytes = plan.prepare(device), 4 * 4 * 32 * 32 * 3
    images = device.arrays(image_bytes)
    if training:
        operations.value_and_grad(network, Nothing(), images, None, None)
    else:
        operations.logits(network, Nothing(), images)
    # A sum hands its gradient on to both inputs as one array, which the plan counts twice; whoever runs a network keeps
    # the images, which the plan gives up.
    assert 0.8 * plan.peak_bytes <= device.peak <= 1.01 * plan.peak_bytes + image_bytes
    del images
    assert device.taken == 0


def test_a_rehearsed_step_runs_everything_that_training_compiles(step):
    todo = list(accelerators.jobs([step], 2, CONFIG, CIFAR10))
    facts = {job.recipe: logical(job.recipe) for job in todo if job.purpose == "training"}
    rehearsed = accelerators.rehearse(step, facts)
    assert rehearsed.dispatched.keys() == facts.keys()
    assert rehearsed.peak > max(plan.peak_bytes for plan in step.plans)
    assert rehearsed.dispatched[step.update] == 1
    forwards = sum(count for recipe, count in rehearsed.dispatched.items() if isinstance(recipe, Forward))
    assert forwards == sum(len(target.program.instructions) for target in step.targets)


def test_training_is_what_the_engine_compiles(step, monkeypatch):
    begun = []

    class Begun:
        """In the place of `Programs`."""

        devices = jax.local_devices()[:1]

        def __init__(self, **options):
            pass

        def begin(self, recipes):
            begun.extend(recipes)

        def submit(self, function, *arguments):
            pass

    monkeypatch.setattr(engine, "Programs", Begun)
    monkeypatch.setattr(engine.parallel, "num_devices", lambda: 1)
    state = types.SimpleNamespace(params=())
    monkeypatch.setattr(engine.parallel.Mapped, "begin", lambda *shapes: None)
    engine.Engine(CONFIG, CONFIG.hypernetwork(CIFAR10), make_optimizer(CONFIG)).prepare(state, step.targets)
    ours = {job.recipe for job in accelerators.jobs([step], 2, CONFIG, CIFAR10) if job.purpose == "training"}
    assert set(begun) == ours - {step.embed, step.update}


def test_jobs_count_networks_and_name_what_they_are_for(step):
    of_one, of_both = (list(accelerators.jobs([step], networks, CONFIG, CIFAR10)) for networks in (1, 2))
    assert {job.networks for job in of_one} == {1}
    assert {job.networks for job in of_both if job.purpose == "training"} == {1, 2}
    assert [purpose for purpose, _ in itertools.groupby(job.purpose for job in of_both)] == [
        "training", "evaluation", "prediction",
    ]  # fmt: skip
    kinds = [accelerators.kind(job.recipe) for job in accelerators.one_of_every_kind(of_both)]
    assert len(kinds) == len(set(kinds)) > 20
    assert {"Embeddings", "Update", "Collect", "Conv 1x1, backward", "Decode, dense"} <= set(kinds)


def test_a_roofline_is_what_takes_longer(capsys):
    chip = Chip(flops=100.0, bandwidth=10.0, memory=0.0)
    network = lower(NETWORKS["resnet"], CIFAR10)
    conv, add = (
        Forward(signature_of(network, next(i for i in network.instructions if type(i.primitive) is kind), batch=4))
        for kind in (Conv, Add)
    )
    facts = {
        conv: Facts((), (), 0, 0, flops=200.0, traffic=5.0, accessed=0.0),
        add: Facts((), (), 0, 0, flops=1.0, traffic=30.0, accessed=0.0),
    }
    dispatched = collections.Counter({conv: 3, add: 2})
    seconds = accelerators.roofline(dispatched, facts, chip)
    assert seconds == pytest.approx({"Conv larger, forward": 6.0, "Add, forward": 6.0})
    steps = [accelerators.Rehearsed(0, "", dispatched, networks=4)] * 2
    step = accelerators.report_time(steps, facts, chip)
    assert step == pytest.approx(12.0 + 5 * accelerators.DISPATCH_SECONDS)
    assert re.search(r"chip +3000.00 ms", capsys.readouterr().out)


def test_multiply_adds_of_gradients_are_twice_those_of_outputs():
    network = lower(NETWORKS["resnet"], CIFAR10)
    signature = signature_of(network, network.instructions[0], batch=4)
    forward = accelerators.multiply_adds(Forward(signature))
    assert forward == 4 * 32 * 32 * 8 * 3 * 9
    assert accelerators.multiply_adds(Backward(signature)) == 2 * forward


@pytest.mark.parametrize(("platform", "extra"), [("tpu", "tpu-check"), ("cuda", "gpu-check")])
def test_a_compiler_that_is_not_installed_is_named(platform, extra, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["accelerators.py", f"--platform={platform}"])
    with pytest.raises(SystemExit) as end:
        accelerators.main()
    assert str(end.value).count("\n") == 0
    assert str(end.value).endswith(f"pip install 'ghn_jax[{extra}]'")


def test_numbers_that_make_no_run_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["accelerators.py", "--platform=tpu", "--networks=0"])
    with pytest.raises(SystemExit):
        accelerators.main()
    assert "--networks and --batch_size must be at least 1" in capsys.readouterr().err
