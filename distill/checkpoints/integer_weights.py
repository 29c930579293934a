"""Weights of matrix products in int8, with scales such that every CPU computes the same.

Without instructions for integer products (VNNI), x86 CPUs multiply eight-bit activations a in [0, 255] with
eight-bit weights w, add neighbours in 16 bits, a[2k] w[2k] + a[2k + 1] w[2k + 1], and cut off what does not
fit, without a word. Weights up to 127 can be cut off. Those here never are: neighbours of one sign add up to
128 at the most, and 255 times that fits. Weights of 7 bits, the usual remedy, would be twice as coarse as
those of 8 bits; these are a third coarser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from distill.errors import CheckpointError

if TYPE_CHECKING:
    from onnx import ModelProto

_VERSION = "install the version that constraints.txt has"
_MOST = 127
"""Sum of two neighbours before rounding, which adds a half to each at the most."""


def quantize_columns(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights W (K, N) of a product x W as integers, times one scale for each column.

    Returns:
        (K, N) int8 and (N,) float32, every scale above 0.
    """
    padded = np.pad(weights.astype(np.float32), ((0, len(weights) % 2), (0, 0)))
    pairs = padded.reshape(-1, 2, weights.shape[1])
    sums = [np.maximum(sign * pairs, 0.0).sum(1).max(0) for sign in (1, -1)]  # (N,) of each sign
    scales = np.maximum(np.maximum(*sums), np.finfo(np.float32).tiny) / np.float32(_MOST)
    return np.rint(weights / scales).astype(np.int8), scales


def requantize(model: ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Give all integer products of a model that onnxruntime quantised weights of `quantize_columns`.

    Args:
        model: with int8 weights NAME_quantized (K, N) and NAME_scale (N,), changed in place.
        weights: by NAME, those in float32, (K, N) or (N, K).

    Raises:
        CheckpointError: if the integers are not those of the weights: onnxruntime's names have changed.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMulInteger":
            continue
        name = node.input[1].removesuffix("_quantized")
        try:
            integers, scales = tensors[node.input[1]], tensors[f"{name}_scale"]
            columns = _oriented(weights[name], *map(numpy_helper.to_array, (integers, scales)))
        except KeyError as error:
            raise CheckpointError(f"onnxruntime names no integers after {error}: {_VERSION}") from None
        if columns is None:
            raise CheckpointError(f"onnxruntime quantised {name} in another way than expected: {_VERSION}")
        for tensor, values in zip((integers, scales), quantize_columns(columns), strict=True):
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _oriented(weights: np.ndarray, integers: np.ndarray, scales: np.ndarray) -> np.ndarray | None:
    """The weights in the layout of their integers, None if they are not theirs."""
    for candidate in (weights, weights.T):
        if candidate.shape == integers.shape and np.abs(candidate / scales - integers).max() < 0.51:
            return candidate
    return None
