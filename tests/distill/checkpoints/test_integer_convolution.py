"""Grouped convolutions as integer products, against sums written out, in onnxruntime."""

import numpy as np
import pytest

from distill.checkpoints.integer_convolution import quantize_grouped

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def convolution(weight: np.ndarray, bias: np.ndarray | None, groups: int, pads: list[int], stride: int = 1):
    """A model (B, C, F) -> (B, D, F') whose taps are the product of two weights, as in weight norm."""
    half = np.full((1, 1, weight.shape[2]), 0.5, np.float32)
    weights = {
        "position.conv.parametrizations.weight.original0": half,
        "position.conv.parametrizations.weight.original1": 2 * weight,
    }
    inputs = ["x", "weight"]
    if bias is not None:
        weights["position.conv.bias"] = bias
        inputs.append("position.conv.bias")
    conv = onnx.helper.make_node(
        "Conv", inputs, ["y"], group=groups, pads=pads, strides=[stride], kernel_shape=weight.shape[2:]
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", list(weights)[:2], ["weight"]), conv],
        "conv",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["b", "c", "f"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["b", "d", "n"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def run(model, x: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def in_loops(x, weight, bias, groups, pads):
    """The formula with what it multiplies rounded as stated: x by group to 255 steps, taps by channel.

    The step of a channel's taps is such that neighbours in the product add up to 127 steps at the most.
    """
    width = weight.shape[1]
    rounded = np.zeros_like(x, dtype=np.float64)
    for group in range(groups):
        part = slice(group * width, (group + 1) * width)
        step = max(float(np.abs(x[:, part]).max()) / 127, 1e-30)
        rounded[:, part] = np.rint(x[:, part] / step) * step
    taps = np.zeros_like(weight, dtype=np.float64)
    for channel in range(len(weight)):
        row = [float(value) for tap in weight[channel].T for value in tap]
        pairs = [row[first : first + 2] for first in range(0, len(row), 2)]
        sums = [abs(sum(v for v in pair if v * sign > 0)) for pair in pairs for sign in (1, -1)]
        step = max(max(sums) / 127, 1e-30)
        taps[channel] = np.rint(weight[channel] / step) * step
    padded = np.pad(rounded, ((0, 0), (0, 0), tuple(pads)))
    n_frames = padded.shape[2] - weight.shape[2] + 1
    y = np.zeros((len(x), len(weight), n_frames))
    for d in range(len(weight)):
        group = d // (len(weight) // groups)
        for t in range(n_frames):
            seen = padded[:, group * width : (group + 1) * width, t : t + weight.shape[2]]
            y[:, d, t] = (seen * taps[d]).sum((1, 2)) + bias[d]
    return y


@pytest.mark.parametrize(
    ("batch", "frames", "channels", "out", "kernel", "groups", "pads"),
    [
        (1, 20, 12, 12, 16, 3, [8, 8]),
        (3, 1, 8, 8, 16, 2, [8, 8]),
        (2, 9, 6, 9, 7, 3, [3, 3]),
        (2, 30, 4, 8, 12, 4, [0, 2]),
        (1, 5, 4, 4, 1, 2, [0, 0]),
    ],
)
def test_the_sum_of_rounded_factors(batch, frames, channels, out, kernel, groups, pads):
    generator = np.random.default_rng(kernel)
    x = generator.standard_normal((batch, channels, frames)).astype(np.float32)
    x[:, : channels // groups] *= 1000  # loud channels cost the other groups nothing
    weight = generator.standard_normal((out, channels // groups, kernel)).astype(np.float32)
    weight[0] = 0.0
    bias = generator.standard_normal(out).astype(np.float32)
    model = convolution(weight, bias, groups, pads)
    exact = run(model, x)
    quantize_grouped(model)
    assert [node.op_type for node in model.graph.node].count("MatMulInteger") == groups
    assert not any(node.op_type == "Conv" for node in model.graph.node)
    found = run(model, x)
    expected = in_loops(x, weight, bias, groups, pads)
    assert found.shape == exact.shape == expected.shape
    size = np.abs(expected).max((0, 2), keepdims=True)
    # Ties may round either way: by a step of one factor in a sum of many.
    np.testing.assert_allclose(found / size, expected / size, atol=2e-3)
    assert np.median(np.abs(found - expected) / size) < 1e-6
    assert np.linalg.norm((found - exact) / size) < 0.03 * np.linalg.norm(exact / size)


def test_silence_is_the_bias():
    weight = np.ones((4, 2, 8), np.float32)
    bias = np.arange(4, dtype=np.float32)
    model = convolution(weight, bias, 2, [4, 4])
    quantize_grouped(model)
    found = run(model, np.zeros((1, 4, 6), np.float32))
    np.testing.assert_array_equal(found, np.broadcast_to(bias[:, None], (1, 4, 7)))


def test_the_names_and_shapes_of_what_is_left():
    weight = np.ones((6, 2, 8), np.float32)
    model = convolution(weight, None, 3, [4, 4])
    quantize_grouped(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for group in range(3):
        taps = tensors[f"position.conv.taps.{group}"]
        assert tuple(taps.dims) == (16, 2) and taps.data_type == onnx.TensorProto.INT8
    assert not any("parametrizations" in name for name in tensors)
    onnx.checker.check_model(model)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 2)])
def test_other_convolutions_stay(groups, stride):
    model = convolution(np.ones((4, 4 // groups, 8), np.float32), None, groups, [4, 4], stride)
    before = model.SerializeToString()
    quantize_grouped(model)
    assert model.SerializeToString() == before


def test_a_weight_that_depends_on_the_input_stays():
    nodes = [
        onnx.helper.make_node("Relu", ["w"], ["weight"]),
        onnx.helper.make_node("Conv", ["x", "weight"], ["y"], group=2),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 3)
        for name in ("x", "w", "y")
    ]
    graph = onnx.helper.make_graph(nodes, "conv", values[:2], values[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    quantize_grouped(model)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Conv"]
