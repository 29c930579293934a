"""Weights in int8 whose products no CPU cuts off."""

from __future__ import annotations

import numpy as np
import pytest

from distill.checkpoints.integer_weights import quantize_columns, requantize
from distill.errors import CheckpointError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WEIGHTS = {
    "evenly distributed": np.random.default_rng(0).uniform(-1, 1, (64, 24)).astype(np.float32),
    "all the same": np.full((64, 24), -0.3, np.float32),
    "of an odd number of rows": np.random.default_rng(1).standard_normal((63, 24)).astype(np.float32),
    "one row": np.array([[1.0, -2.0, 0.0]], np.float32),
    "zero": np.zeros((8, 3), np.float32),
}


@pytest.fixture(params=list(WEIGHTS), name="weights")
def _weights(request):
    return WEIGHTS[request.param]


def test_neighbours_fit_in_sixteen_bits(weights):
    integers, scales = quantize_columns(weights)
    assert integers.dtype == np.int8 and scales.dtype == np.float32 and (scales > 0).all()
    for first, second in zip(integers[::2].astype(int), integers[1::2].astype(int), strict=False):
        for a, b in ((255, 255), (0, 255), (255, 0)):
            sums = a * first + b * second
            assert sums.min() >= -(2**15) and sums.max() < 2**15


def test_they_are_the_weights_to_half_a_step(weights):
    integers, scales = quantize_columns(weights)
    assert (np.abs(integers * scales - weights) <= 0.501 * scales).all()


def test_they_are_no_coarser_than_needed():
    """Seven bits would be twice as coarse as eight; neighbours of opposite signs need no room."""
    weights = np.random.default_rng(3).standard_normal((768, 400)).astype(np.float32)
    eight_bits = np.abs(weights).max(0) / 127
    assert 1.2 < np.mean(quantize_columns(weights)[1] / eight_bits) < 1.5
    weights = np.array([[0.7], [-1.0], [0.2], [-0.5]], np.float32)
    np.testing.assert_allclose(quantize_columns(weights)[1], [1 / 127])


def product(a: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Of onnxruntime, on this CPU."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "zero"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [None, len(integers)])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [None, integers.shape[1]])],
        [numpy_helper.from_array(integers, "b"), numpy_helper.from_array(np.uint8(128), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": a})[0]


def test_products_are_exact_on_this_cpu(weights):
    integers, _ = quantize_columns(weights)
    draw = np.random.default_rng(2).integers(0, 256, (40, len(weights)), np.uint8)
    a = np.concatenate(
        [draw, np.full((1, len(weights)), 255, np.uint8), np.zeros((1, len(weights)), np.uint8)]
    )
    assert np.array_equal(product(a, integers), (a.astype(int) - 128) @ integers.astype(int))


def quantised(weight: np.ndarray, integers: np.ndarray, scales: np.ndarray, name: str = "w"):
    """A model as onnxruntime quantises one."""
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", f"{name}_quantized"], ["y"])],
        "quantised",
        [],
        [],
        [
            numpy_helper.from_array(integers, f"{name}_quantized"),
            numpy_helper.from_array(scales, f"{name}_scale"),
        ],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize("turned", [False, True])
def test_integers_of_another_scale_are_replaced(turned):
    from onnx import numpy_helper

    weight = WEIGHTS["evenly distributed"][:24]  # square: its layout shows in the integers alone
    scales = np.abs(weight).max(0) / np.float32(127)
    model = quantised(weight, np.rint(weight / scales).astype(np.int8), scales)
    requantize(model, {"w": weight.T if turned else weight})
    found = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    for values, expected in zip(found, quantize_columns(weight), strict=True):
        assert np.array_equal(values, expected)


def test_integers_of_other_weights_are_refused():
    weight = WEIGHTS["evenly distributed"]
    integers, scales = quantize_columns(weight)
    with pytest.raises(CheckpointError, match="in another way than expected: install the version"):
        requantize(quantised(weight, integers, scales), {"w": weight[::-1]})
    with pytest.raises(CheckpointError, match="no integers after 'w': install the version"):
        requantize(quantised(weight, integers, scales), {"v": weight})
