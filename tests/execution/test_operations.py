"""Networks run operation by operation, checked against the same networks as one program each."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from at_once import at_once
from example_networks import NETWORKS

from ghn_jax.execution import whole
from ghn_jax.execution.compiling import CompilationError, Programs
from ghn_jax.execution.operations import Given, Plan, logits, value_and_grad
from ghn_jax.execution.recipes import Backward, Forward, Sum, signature_of
from ghn_jax.networks.architecture import CIFAR10
from ghn_jax.networks.initialization import he_init
from ghn_jax.networks.losses import cross_entropy
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.primitives import Primitive
from ghn_jax.runtime import counted

BATCH = 4
PROGRAMS = {name: lower(architecture, CIFAR10) for name, architecture in NETWORKS.items()}
IMAGES = np.random.default_rng(0).standard_normal((BATCH, 32, 32, 3)).astype(np.float32)
LABELS = np.array([1, 3, 5, 7], np.int32)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def programs():
    compiled = Programs(jax.local_devices()[:1])
    yield compiled
    compiled.close()


def train(program, programs, dtype="float32"):
    """Loss and gradients, operation by operation."""
    given = Given(program, jax.tree.map(jnp.asarray, he_init(program, seed=0)))
    network = Plan(program, BATCH, dtype, label_smoothing=0.1).prepare(programs)
    return value_and_grad(network, given, jnp.asarray(IMAGES), jnp.asarray(LABELS), KEY), given.gradients


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_those_of_the_whole_network(name, programs):
    program = PROGRAMS[name]

    def loss(params):
        logits = whole.run(program, params, IMAGES, dropout_key=KEY)
        return cross_entropy(logits, LABELS, 0.1), logits

    # Optimised, unlike `at_once`: LLVM's plain sums are less exact than those of the engine's programs.
    (value, answers), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(he_init(program, 0))
    result, mine = train(program, programs)
    np.testing.assert_allclose(result.loss, value, rtol=1e-5)
    assert int(result.correct) == int(jnp.sum(jnp.argmax(answers, -1) == LABELS))
    assert mine.keys() == gradients.keys() == {tensor.name for tensor in program.tensors}
    largest = max(np.abs(values).max() for values in gradients.values())
    for tensor in program.tensors:
        # Gradients of biases before a normalisation are sums that nearly cancel.
        scale = max(np.abs(gradients[tensor.name]).max(), 0.05 * largest)
        np.testing.assert_allclose(mine[tensor.name], gradients[tensor.name], atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_equal_those_of_the_whole_network(name, programs):
    """Forwards only, without dropout."""
    program = PROGRAMS[name]
    params = he_init(program, seed=0)
    given = Given(program, jax.tree.map(jnp.asarray, params))
    mine = logits(Plan(program, BATCH).prepare(programs), given, jnp.asarray(IMAGES))
    expected = at_once(functools.partial(whole.run, program), params, IMAGES)
    np.testing.assert_allclose(mine, expected, atol=1e-5 * np.abs(expected).max())


def test_networks_of_known_operations_compile_nothing(programs):
    base = NETWORKS["resnet"]
    first, *others = [lower(dataclasses.replace(base, depths=d), CIFAR10) for d in ((2, 2), (1, 2), (3, 2), (2, 4))]
    train(first, programs)
    for program in others:
        with counted() as compilations:
            jax.block_until_ready(train(program, programs))
        assert not compilations


def test_the_same_program_is_compiled_once():
    """A mean over pixels is a global pooling, and the sum of two states that of two gradients, for XLA."""
    compiled = Programs(jax.local_devices()[:1])
    cse, resnet = PROGRAMS["mixed"], PROGRAMS["resnet"]
    squeeze = next(i for i in cse.instructions if type(i.primitive).__name__ == "Squeeze")
    pooling = next(i for i in resnet.instructions if type(i.primitive).__name__ == "GlobalAvgPool")
    shape = resnet.register_shape(pooling.inputs[0])
    signatures = [
        dataclasses.replace(signature_of(resnet, pooling, BATCH), primitive=i.primitive, inputs=(shape,))
        for i in (squeeze, pooling)
    ]
    recipes = [make(signature) for signature, make in itertools.product(signatures, (Forward, Backward))]
    x = jnp.ones((BATCH, *shape))
    for recipe in recipes:
        compiled.get(recipe)
    assert (compiled.started, compiled.distinct) == (4, 2)
    np.testing.assert_array_equal(compiled.get(recipes[0])((), (x,), ()), np.ones((BATCH, shape[-1])))
    compiled.close()


@dataclasses.dataclass(frozen=True)
class Second:
    """The second of two arguments, one more; the first is not used."""

    size: int
    donated = ()

    @property
    def arguments(self):
        return jax.ShapeDtypeStruct((self.size,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)

    def __call__(self, first, second):
        return second + 1


def test_programs_with_other_unused_arguments_are_others():
    compiled = Programs(jax.local_devices()[:1])
    for size in (3, 4):
        values = compiled.get(Second(size))(jnp.zeros(size), jnp.array([1.0, 2.0]))
        np.testing.assert_array_equal(values, [2, 3])
    assert (compiled.started, compiled.distinct) == (2, 2)
    compiled.close()


def test_bfloat16_activations(programs):
    """Half the memory; gradients stay float32 and close to those in full precision."""
    program = PROGRAMS["resnet"]
    (full, gradients), (half, rough) = (train(program, programs, dtype) for dtype in ("float32", "bfloat16"))
    assert {values.dtype for values in rough.values()} == {jnp.dtype(jnp.float32)}
    assert half.loss != full.loss
    np.testing.assert_allclose(half.loss, full.loss, rtol=0.05)
    a, b = (np.concatenate([np.ravel(g[name]) for name in gradients]).astype(float) for g in (gradients, rough))
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.9
    plans = [Plan(program, BATCH, dtype, label_smoothing=0.0) for dtype in ("float32", "bfloat16")]
    assert plans[0].peak_bytes == 2 * plans[1].peak_bytes


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_die_when_nothing_needs_them(name, programs, monkeypatch):
    """The most that is alive at once, counted at every dispatch, is what the plan says."""
    program = PROGRAMS[name]
    plan = Plan(program, BATCH, label_smoothing=0.0)
    network = plan.prepare(programs)
    given = Given(program, jax.tree.map(jnp.asarray, he_init(program, seed=0)))
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    value_and_grad(network, given, images, labels, KEY)  # whatever else lives for long is there now
    known = {id(array) for array in jax.live_arrays()}
    parameters = {tensor.shape for tensor in program.tensors}
    most = 0

    def watched(function):
        def call(*arguments):
            nonlocal most
            result = function(*arguments)
            jax.block_until_ready(result)
            alive = [a for a in jax.live_arrays() if id(a) not in known and a.ndim > 1 and a.shape not in parameters]
            most = max(most, sum(array.nbytes for array in alive) + images.nbytes)
            return result

        return call

    steps = tuple(
        step._replace(forward=watched(step.forward), backward=step.backward and watched(step.backward))
        for step in network.steps
    )
    value_and_grad(network._replace(steps=steps), Given(program, given._params), images, labels, KEY)
    assert most <= 1.02 * plan.peak_bytes
    assert most >= 0.8 * plan.peak_bytes


def test_memory_is_that_of_activations():
    """What a gradient reads is kept once; forwards alone, next to nothing is."""
    program = PROGRAMS["resnet"]
    activations = 4 * BATCH * sum(np.prod(instruction.shape) for instruction in program.instructions)
    assert Plan(program, BATCH, label_smoothing=0.0).peak_bytes < 1.25 * activations
    assert Plan(program, BATCH).peak_bytes < 0.4 * activations


@dataclasses.dataclass(frozen=True)
class Broken(Primitive):
    """An operation that XLA is said not to know."""

    def __call__(self, params, *inputs):
        raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such operation")


def test_an_operation_that_cannot_be_compiled_is_named():
    compiled = Programs(jax.local_devices()[:1])
    signature = dataclasses.replace(
        signature_of(PROGRAMS["resnet"], PROGRAMS["resnet"].instructions[0], 4), primitive=Broken()
    )
    with pytest.raises(
        CompilationError, match=r"Broken\(\) applied to \(32, 32, 3\), 4 images of float32, forwards cannot"
    ):
        compiled.get(Forward(signature))
    compiled.close()


def test_every_recipe_says_what_it_is():
    for recipe in Plan(PROGRAMS["mixed"], BATCH, label_smoothing=0.0).recipes():
        assert "object at 0x" not in str(recipe)
    assert str(Sum((4, 4, 8), 2, "float32")) == "Sum(shape=(4, 4, 8), batch=2, dtype='float32')"
