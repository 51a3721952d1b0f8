"""Tracing the execution of a DeepNets network gives the graph of its program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_ghns import SMALL, random_ghn
from traced import assert_same_graph

import ghn_jax
from ghn_jax.deepnets.sampler import sample_architecture
from ghn_jax.execution import whole
from ghn_jax.graphs.graph import Role
from ghn_jax.networks.architecture import CIFAR10, IMAGENET, named
from ghn_jax.networks.lowering import lower
from ghn_jax.networks.program_graph import graph_of
from ghn_jax.prediction.predict import predict_params


def trace_program(program, batch=2):
    size = program.task.image_size
    params = {tensor.name: jax.ShapeDtypeStruct(tensor.shape, jnp.float32) for tensor in program.tensors}
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    return ghn_jax.trace(lambda params, images: whole.run(program, params, images), params, images, strict=True)


def check(architecture, task):
    program = lower(architecture, task)
    traced, expected = trace_program(program), graph_of(program)
    assert_same_graph(traced, expected, names=True)
    assert {(t.name, t.role, t.size) for t in traced.tensors} == {(t.name, t.role, t.size) for t in expected.tensors}


FEW = {"test": range(30), "wide": range(5), "deep": range(5), "dense": range(8), "bnfree": range(20)}
MORE = {
    "test": range(30, 80),
    "wide": range(5, 10),
    "deep": range(5, 15),
    "dense": range(8, 25),
    "bnfree": range(20, 60),
}


@pytest.mark.parametrize("split", FEW)
@pytest.mark.parametrize("networks", [FEW, pytest.param(MORE, marks=pytest.mark.longer)], ids=["few", "more"])
def test_equal_to_the_graph_of_the_program(split, networks):
    for index in networks[split]:
        check(sample_architecture(split, index), CIFAR10)


@pytest.mark.parametrize("name", ["resnet50", "vit", "darts", "pdarts"])
@pytest.mark.parametrize("task", [CIFAR10, IMAGENET], ids=["cifar10", "imagenet"])
def test_named_architectures(name, task):
    check(named(name), task)


def test_imagenet_networks():
    for index in range(10):
        check(sample_architecture("test", index), IMAGENET)


def test_the_same_parameters_are_predicted():
    ghn = random_ghn(SMALL)
    for index in range(4):
        program = lower(sample_architecture("val", index), CIFAR10)
        expected = predict_params(graph_of(program), ghn)
        predicted = predict_params(trace_program(program), ghn)
        assert predicted.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(predicted[name], values, atol=1e-5, err_msg=name)


def test_a_jitted_network_that_ran_before_is_traced_as_well():
    program = lower(sample_architecture("val", 0), CIFAR10)
    run = jax.jit(lambda params, images: whole.run(program, params, images))
    params = predict_params(graph_of(program), random_ghn(SMALL))
    images = jnp.ones((2, 32, 32, 3))
    before = run(params, images)
    graph = ghn_jax.trace(run, params, images, strict=True)
    assert_same_graph(graph, graph_of(program), names=True)
    np.testing.assert_allclose(run(params, images), before, rtol=1e-6)


def test_class_layers_are_found():
    program = lower(named("vit"), CIFAR10)
    roles = {tensor.name: tensor.role for tensor in trace_program(program).tensors}
    assert roles["classifier.0.weight"] is Role.CLASS_WEIGHT and roles["classifier.0.bias"] is Role.CLASS_BIAS
