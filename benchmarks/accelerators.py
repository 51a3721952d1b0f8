"""Compiles for a TPU or a GPU that is not there: what all programs take to compile, and a step of memory and time.

    pip install 'ghn_jax[tpu-check]'                # libtpu, whose compiler needs no TPU
    python benchmarks/accelerators.py --platform=tpu
    python benchmarks/accelerators.py --platform=tpu --small       # a program of every kind, in a minute or two
    pip install 'ghn_jax[gpu-check]'                # jax[cuda12], in a virtual environment of its own
    python benchmarks/accelerators.py --platform=cuda --networks=24 --channels=drawn

Programs are those that training on the first train networks needs, with the hypernetwork's own; evaluating these
networks; and predicting a ResNet-50 and a ViT on the device.  Each is compiled once, by XLA's compiler for a TPU v5e or
an H100; where there is a GPU, XLA also tries algorithms out, which takes longer.

Memory and time are those of a rehearsal: all dispatches of a training step, with arrays that have a size only.  The
time is a roofline, a lower bound: for every program its arithmetic, or reading its arguments and writing its results,
whichever takes longer at the chip's published figures; and the host's time to dispatch it.  XLA counts what is in a
loop once: the walk of the graph network, from node to node, comes on top.

The last line is JSON: programs; CPU-seconds for all, and for the slowest; megabytes of code, null where XLA does not
tell; GiB of the step that needs most; seconds of a mean step, a meta-batch of 8.
"""

import argparse
import collections
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from jax.experimental import topologies

from ghn_jax.evaluation.accuracy import BATCH_SIZE
from ghn_jax.execution.compiling import CompilationError, Programs, Recipe
from ghn_jax.execution.operations import Plan, value_and_grad
from ghn_jax.execution.recipes import Backward, Forward
from ghn_jax.execution.rehearsal import Chip, Facts, Rehearsal, facts_of
from ghn_jax.ghn.chunks import rows_shape
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.hypernetwork import param_shapes
from ghn_jax.ghn.programs import Decode, MakeTensors, PullBackChunk, PullBackTensors, decoder_params
from ghn_jax.ghn.rows import Table
from ghn_jax.graphs.graph import Graph
from ghn_jax.networks.architecture import CIFAR10, IMAGENET, Task, named
from ghn_jax.networks.network import Network, make_network
from ghn_jax.networks.primitives import Conv, Primitive
from ghn_jax.prediction.on_device import recipes_of
from ghn_jax.training.config import TrainConfig
from ghn_jax.training.decoded import DecodedTensors, Decoding
from ghn_jax.training.inputs import CAPACITY, first_nodes, graphs_of, padded_nodes
from ghn_jax.training.memory import plan_of
from ghn_jax.training.meta_batches import meta_batches
from ghn_jax.training.optimizer import make_optimizer
from ghn_jax.training.step import DEVICES, Collect, init_state, make_embed, make_update

META_BATCH = 8
PREDICTED = ("resnet50", "vit")
GIB = 2**30

DISPATCH_SECONDS = 10e-6
"""Of the host for a program: calling a compiled sum or normalisation takes 5 to 7 us (JAX 0.10 on a core of a cloud
machine); the rest is for what the engine does in between."""

CHIPS = {
    # Google Cloud, "TPU v5e": 197 TFLOP/s in bfloat16, in which TPUs multiply float32 by default, too.
    "tpu": Chip(197e12, 819e9, 16e9),
    # NVIDIA, "H100 Tensor Core GPU", SXM: dense TF32, in which XLA multiplies float32 by default; 989 TFLOP/s are those
    # of bfloat16.
    "cuda": Chip(495e12, 3.35e12, 80e9),
}

# Fields of XLA's GpuTargetConfigProto, with the values of an H100.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  clock_rate_ghz: 1.98  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def device_of(platform: str) -> Any:
    """A device to compile for; ends the process if the compiler is not installed."""
    module, extra = {"tpu": ("libtpu", "tpu-check"), "cuda": ("jax_cuda12_plugin", "gpu-check")}[platform]
    if importlib.util.find_spec(module) is None:
        sys.exit(f"--platform={platform} needs {module}: pip install 'ghn_jax[{extra}]'")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    if platform == "tpu":
        # Without these libtpu asks the machine's surroundings for its TPU, and only one process may load it.
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
        os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    jax.devices()  # finds the plug-in
    topology = topologies.get_topology_desc(platform="cuda", topology_name="", target_config=_H100, topology="1x1x1")
    return topology.devices[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A function of the hypernetwork as a recipe."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __str__(self):
        return self.name


class Step(NamedTuple):
    """What a training step on one device runs."""

    embed: Function
    update: Function
    collect: Collect
    targets: tuple[Network, ...]
    plans: tuple[Plan, ...]
    decodings: tuple[Decoding, ...]


def steps(config: TrainConfig, task: Task) -> Iterator[Step]:
    """The steps of a training run on one device."""
    ghn = config.hypernetwork(task)
    some_chunk = PullBackChunk(Decode(ghn, Table.CLASS_BIAS, 1, CAPACITY), 1 / config.meta_batch, None)
    collect = Collect(some_chunk, config.meta_batch)
    functions: dict[int, tuple[Function, Function]] = {}
    for meta_batch in meta_batches(config, task):
        targets = meta_batch.targets
        graphs = [target.graph for target in targets]
        nodes = padded_nodes(max(graph.num_nodes for graph in graphs))
        if nodes not in functions:
            functions[nodes] = _before_and_after(config, ghn, collect, graphs, nodes)
        plans = [plan_of(target, config) for target in targets]
        decodings = [_decoding(*pair, ghn, config) for pair in zip(targets, first_nodes(graphs), strict=True)]
        yield Step(*functions[nodes], collect, targets, tuple(plans), tuple(decodings))


def _before_and_after(
    config: TrainConfig, ghn: HypernetConfig, collect: Collect, graphs: Sequence[Graph], nodes: int
) -> tuple[Function, Function]:
    """What the hypernetwork does before and after the networks of a step."""
    optimizer = make_optimizer(config)
    state = _leading(jax.eval_shape(lambda params: init_state(params, optimizer), param_shapes(ghn)))
    padded = _leading(graphs_of(graphs, nodes, ghn))
    found = jax.eval_shape(collect, *collect.arguments)
    embed, update = _of_one_device(make_embed(ghn)), _of_one_device(make_update(optimizer))
    _, pull_back = jax.eval_shape(embed, state.params, padded)
    size = f"{len(graphs)} graphs of {nodes} nodes"
    return (
        Function(f"Embeddings of {size}", embed, (state.params, padded)),
        Function(f"Update after {size}", update, (state, pull_back, found), (0,)),
    )


def _leading(tree: Any) -> Any:
    """Shapes of arrays with an axis over one device before the others."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *np.shape(leaf)), leaf.dtype), tree)


def _of_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function to be mapped over devices, for the only one."""

    def alone(*arguments):
        arguments = jax.tree.map(lambda leaf: leaf[0], arguments)
        return jax.vmap(lambda: function(*arguments), axis_name=DEVICES, axis_size=1)()

    return alone


def _decoding(target: Network, first_node: int, ghn: HypernetConfig, config: TrainConfig) -> Decoding:
    return Decoding(
        target.program,
        target.graph,
        ghn,
        capacity=CAPACITY,
        first_node=first_node,
        weight=1 / config.meta_batch,
        clip_norm=config.network_clip_norm,
    )


class Job(NamedTuple):
    """A recipe, what needs it, and how many train networks there are by then."""

    purpose: str
    networks: int
    recipe: Recipe


def jobs(todo: Sequence[Step], networks: int, config: TrainConfig, task: Task) -> Iterator[Job]:
    """All recipes, in the order in which they are needed: training, evaluation, prediction."""
    runs = [(step, *run) for step in todo for run in zip(step.targets, step.plans, step.decodings, strict=True)]
    for number, (step, _, plan, decoding) in enumerate(runs[:networks], start=1):
        for recipe in (step.embed, step.update, step.collect, *decoding.recipes(), *plan.recipes()):
            yield Job("training", number, recipe)
    for _, target, _, _ in runs[:networks]:
        for recipe in Plan(target.program, BATCH_SIZE).recipes():
            yield Job("evaluation", networks, recipe)
    for name in PREDICTED:
        for recipe in recipes_of(make_network(0, named(name), task).graph, config.hypernetwork(task)):
            yield Job("prediction", networks, recipe)


class Compiled(NamedTuple):
    """A recipe that has been compiled.

    Attributes:
      job: what it was needed for first.
      cpu_seconds: to trace and to compile.
      new: whether it is another program than those before.
      facts: of the program.
    """

    job: Job
    cpu_seconds: float
    new: bool
    facts: Facts


def compile_all(todo: Iterable[Job], device: Any) -> list[Compiled]:
    """Compiles one recipe at a time, so that the CPU-seconds meanwhile of all threads, and of programs that XLA runs
    (the assembler for GPUs), are those of the recipe."""
    first: dict[Recipe, Job] = {}
    for job in todo:
        first.setdefault(job.recipe, job)
    programs, found = Programs([device], threads=1, keep=False), []
    for recipe, job in tqdm.tqdm(first.items(), "compiling", unit="recipe", smoothing=0, disable=None):
        known, began = programs.distinct, cpu_seconds()
        compiled = programs.get(recipe)
        seconds = cpu_seconds() - began
        facts = facts_of(compiled, flops=2 * multiply_adds(recipe))
        found.append(Compiled(job, seconds, programs.distinct > known, facts))
    programs.close()
    return found


def cpu_seconds() -> float:
    """Of this process and those that it started and that have ended."""
    return sum(os.times()[:4])


def multiply_adds(recipe: Recipe) -> int:
    """Of the matrix products of networks and decoders."""
    match recipe:
        case Forward(signature):
            return signature.batch * signature.primitive.multiply_adds(signature.output)
        case Backward(signature):
            return 2 * multiply_adds(Forward(signature))
        case Decode(ghn, table, rows):  # those of the last layer, which are nearly all
            return 8 * ghn.hid * math.prod(rows_shape(ghn, table, rows).shape)
        case PullBackChunk(decode):  # decodes once more
            return 3 * multiply_adds(decode)
    return 0


class Rehearsed(NamedTuple):
    """A training step that has been rehearsed.

    Attributes:
      peak: bytes of memory at most.
      moment: when.
      dispatched: how often each recipe was.
      networks: how many.
    """

    peak: int
    moment: str
    dispatched: collections.Counter[Recipe]
    networks: int


def rehearse(step: Step, facts: Mapping[Recipe, Facts]) -> Rehearsed:
    """Dispatches what a training step dispatches on one device, network after network (`training.engine`)."""
    device = Rehearsal(facts)
    state, _, _ = device.arrays(facts[step.update].arguments)
    _, graphs = device.arrays(facts[step.embed].arguments)
    images, labels = device.arrays(_images_and_labels(step.plans[0], facts))
    key = device.number(0)

    def run(target: Network, plan: Plan, decoding: Decoding) -> tuple[Any, ...]:
        device.doing = f"architecture {target.number}"
        network, decoded = plan.prepare(device), decoding.prepare(device, 0)
        tensors = DecodedTensors(decoded, decoder_params(state.params), nodes)
        loss = value_and_grad(network, tensors, images, labels, key)
        return tensors.gradients(), loss, tensors.square

    device.doing = "before the networks"
    nodes, pull_back = device.get(step.embed)(state.params, graphs)
    found = [run(*network) for network in zip(step.targets, step.plans, step.decodings, strict=True)]
    device.doing = "after the networks"
    found = device.get(step.collect)(*zip(*found, strict=True))
    device.get(step.update)(state, pull_back, found)
    return Rehearsed(device.peak, device.moment, device.dispatched, len(step.targets))


def _images_and_labels(plan: Plan, facts: Mapping[Recipe, Facts]) -> tuple[int, int]:
    """Their bytes on the device."""
    reads_images = next(signature for signature in plan.signatures if signature.from_images)
    _, (images, *_), _ = facts[Forward(reads_images)].arguments
    return images, 4 * plan.batch


def kind(recipe: Recipe) -> str:
    """What recipes are summed up by."""
    match recipe:
        case Forward(signature) | Backward(signature):
            return f"{_operation(signature.primitive)}, {type(recipe).__name__.lower()}"
        case Decode(_, table) | PullBackChunk(Decode(_, table)):
            return f"{type(recipe).__name__}, {table.name.lower()}"
        case MakeTensors(_, tensors) | PullBackTensors(MakeTensors(_, tensors), _):
            return f"{type(recipe).__name__}, {tensors[0][0].value}"
        case Function():
            return recipe.name.split()[0]
    return type(recipe).__name__


def _operation(primitive: Primitive) -> str:
    name = type(primitive).__name__
    if not isinstance(primitive, Conv):
        return name
    return f"{name} {'depthwise' if primitive.depthwise else '1x1' if primitive.kernel == (1, 1) else 'larger'}"


def report_compilation(found: Sequence[Compiled], networks: int) -> None:
    """Prints what compiling took: after some networks, by purpose, by kind, and the slowest."""
    seconds, new = sum(c.cpu_seconds for c in found), [c for c in found if c.new]
    print(f"\n{len(found)} recipes, {len(new)} programs, {seconds:.0f} CPU-s ({seconds / len(new):.2f} a program)")
    training = [c for c in found if c.job.purpose == "training"]
    for count in sorted({1, 10, 100, networks}):
        if count <= networks:
            _line(f"training on {count} networks", [c for c in training if c.job.networks <= count])
    for purpose in ("evaluation", "prediction"):
        _line(f"{purpose}, more", [c for c in found if c.job.purpose == purpose])
    kinds = collections.defaultdict(list)
    for c in found:
        kinds[kind(c.job.recipe)].append(c)
    print("\nby kind:")
    for name, of_kind in sorted(kinds.items(), key=lambda item: -sum(c.cpu_seconds for c in item[1])):
        _line(name, of_kind)
    print("\nslowest:")
    for c in sorted(found, key=lambda c: -c.cpu_seconds)[:10]:
        print(f"  {c.cpu_seconds:6.2f} CPU-s  {c.job.recipe}")


def _line(name: str, found: Sequence[Compiled]) -> None:
    seconds, new = [c.cpu_seconds for c in found], [c for c in found if c.new]
    print(
        f"  {name:36}{len(new):5} programs {sum(seconds):8.1f} CPU-s, slowest {max(seconds, default=0):6.2f}, "
        f"{sum(c.facts.code for c in new) / 1e6:7.1f} MB of code"
    )


def roofline(dispatched: Mapping[Recipe, int], facts: Mapping[Recipe, Facts], chip: Chip) -> dict[str, float]:
    """Seconds that a chip takes at least to run programs so many times, by kind."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for recipe, count in dispatched.items():
        seconds[kind(recipe)] += count * facts[recipe].seconds(chip)
    return seconds


def report_memory(found: Sequence[Rehearsed], code: int) -> None:
    """Prints what the step that needs most memory needs."""
    largest = max(found, key=lambda step: step.peak)
    print(f"\nmemory of a step: {largest.peak / GIB:.2f} GiB at most, {code / GIB:.2f} GiB more for all code")
    print(f"  {largest.moment}")


def report_time(found: Sequence[Rehearsed], facts: Mapping[Recipe, Facts], chip: Chip) -> float:
    """Prints what a network takes of a step, and returns the seconds of a mean step."""
    dispatched = sum((step.dispatched for step in found), collections.Counter())
    networks = sum(step.networks for step in found)
    on_chip, host = roofline(dispatched, facts, chip), dispatched.total() * DISPATCH_SECONDS
    accessed = sum(count * facts[recipe].accessed for recipe, count in dispatched.items()) / chip.bandwidth

    def line(name: str, seconds: float, remark: str = "") -> None:
        print(f"  {name:36}{1e3 * seconds / networks:8.2f} ms  {remark}".rstrip())

    print("\ntime of a network at least, with its share of the hypernetwork:")
    line("host", host, f"{dispatched.total() / networks:.0f} dispatches")
    line("chip", sum(on_chip.values()), f"{1e3 * accessed / networks:.2f} if nothing stayed near" if accessed else "")
    for name, seconds in sorted(on_chip.items(), key=lambda item: -item[1])[:10]:
        line(f"  {name}", seconds)
    return (host + sum(on_chip.values())) / len(found)


def one_of_every_kind(todo: Iterable[Job]) -> list[Job]:
    """The first job of every kind."""
    first: dict[str, Job] = {}
    for job in todo:
        first.setdefault(kind(job.recipe), job)
    return list(first.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", required=True, choices=tuple(CHIPS))
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--channels", choices=("32", "drawn"), default="32")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--image", choices=("cifar", "imagenet"), default="cifar")
    parser.add_argument("--small", action="store_true", help="compile a program of every kind, no more")
    args = parser.parse_args()
    if args.networks < 1 or args.batch_size < 1:
        parser.error("--networks and --batch_size must be at least 1")
    device, chip = device_of(args.platform), CHIPS[args.platform]
    task = {"cifar": CIFAR10, "imagenet": IMAGENET}[args.image]
    config = TrainConfig(
        batch_size=args.batch_size,
        meta_batch=min(META_BATCH, args.networks),
        fixed_width=32 if args.channels == "32" else None,
    )
    todo = list(itertools.islice(steps(config, task), -(-args.networks // config.meta_batch)))
    recipes = list(jobs(todo, args.networks, config, task))
    try:
        found = compile_all(one_of_every_kind(recipes) if args.small else recipes, device)
    except CompilationError as error:
        sys.exit(str(error))
    print(f"{device.device_kind}, {args.networks} train networks, {args.channels} channels, {args.batch_size} images")
    report_compilation(found, args.networks)
    result = {
        "platform": args.platform,
        "networks": args.networks,
        "programs": sum(c.new for c in found),
        "compile_cpu_s": sum(c.cpu_seconds for c in found),
        "slowest_cpu_s": max(c.cpu_seconds for c in found),
        "code_mb": sum(c.facts.code for c in found if c.new) / 1e6 or None,
        "peak_memory_gb": None,
        "roofline_step_s": None,
    }
    if not args.small:
        facts = {c.job.recipe: c.facts for c in found}
        rehearsed = [rehearse(step, facts) for step in todo[: args.networks // config.meta_batch]]
        report_memory(rehearsed, sum(c.facts.code for c in found if c.new))
        result["peak_memory_gb"] = max(step.peak for step in rehearsed) / GIB
        result["roofline_step_s"] = report_time(rehearsed, facts, chip)
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in result.items()}))


if __name__ == "__main__":
    main()
