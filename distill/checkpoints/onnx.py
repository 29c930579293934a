"""ONNX: an encoder for onnxruntime and the devices behind it, in float32 and with int8 weights.

Inputs: waveforms (B, T) float32 at 16 kHz, padded at the end; lengths (B,) int64, valid samples. A length
below those of the shortest utterance (400 in HuBERT, 1 in SPIRAL) counts as that, one beyond T as T: a graph
cannot refuse them.
Outputs: last_hidden_state (B, F, D), the last layer (z in Eq. 1 of the paper), after the final layer norm of
pre-norm models; frames (B,) int64, valid ones.
B and T are free, or fixed to one utterance and a number of samples for devices that want static shapes; a
shorter utterance is padded then, and `lengths` says so. Statistics are masked as in the encoder: a padded
batch gives what each row alone gives.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import mmap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.checkpoints import architecture, files
from distill.checkpoints.integer_convolution import quantize_grouped
from distill.checkpoints.integer_weights import requantize
from distill.encoder import Encoder, EncoderConfig
from distill.errors import CheckpointError, first_line
from distill.hubert import HubertConfig
from distill.spiral.encoder import SpiralConfig
from distill.student import Student
from distill.waveforms import SAMPLE_RATE

_KEY = "distill"  # of our description in the file's metadata
_FRONT_END = "encoder.logmel."  # what names of the mel filters begin with in a graph
_MAX_STRUCTURE, _MAX_PARTS = 16 << 20, 500_000
"""Bytes of a file beside the raw contents of weights, up to 75 times as many in memory; nodes, weights and
their fields, which take a second to count. An encoder has some thousand nodes."""
_INNER = {"model": {7: "graph"}, "graph": {5: "weight"}, "weight": {9: "contents"}}
"""Of ModelProto, GraphProto and TensorProto: the fields that lead to the raw contents of weights."""
_OPSET = 18  # what torch's exporter writes without converting


def int8_path(path: Path) -> Path:
    """Where `write` puts the int8 version of a .onnx file."""
    return path.with_name(f"{path.stem}.int8{path.suffix}")


def write(
    model: Encoder | Student,
    path: Path,
    provenance: dict[str, Any] | None = None,
    *,
    n_samples: int | None = None,
) -> Path:
    """Write an encoder, without prediction heads, as `NAME.onnx` and `NAME.int8.onnx`.

    Args:
        model: a student; a plain encoder works as well.
        path: the .onnx file.
        provenance: plain values, kept in the file's metadata.
        n_samples: T, fixed, with B = 1; None: both are free.

    Returns:
        The path of the float32 file.

    Raises:
        CheckpointError: if packages are missing, the files cannot be written, or T is too short.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    encoder = model.encoder if isinstance(model, Student) else model
    description = {
        "architecture": encoder.config.to_dict(),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "targets": list(model.targets) if isinstance(model, Student) else None,
        "provenance": provenance or {},
        "samples": n_samples,
    }
    if n_samples is not None and n_samples < (least := encoder.config.min_samples):
        raise CheckpointError(f"{n_samples} samples are too few for a frame, which needs {least}")
    contents = _trace(encoder, json.dumps(description), n_samples)
    with files.atomic(path) as temporary:
        temporary.write_bytes(contents)
    _quantize(path, int8_path(path))
    return path


def describe(path: Path) -> tuple[EncoderConfig, dict[str, Any]]:
    """What `write` noted down in a .onnx file.

    Returns:
        The encoder's architecture, and "parameters", "targets" (None for a plain encoder), "provenance",
        "precision" ("float32" or "int8") and "samples" (None where the length is free).

    Raises:
        CheckpointError: if the file is damaged or was not written by `write`, or the package onnx is missing.
    """
    _require("onnx")
    import onnx

    try:
        _check_structure(path)
        model = onnx.load(str(path), load_external_data=False)
        noted = next((entry.value for entry in model.metadata_props if entry.key == _KEY), None)
        description = None if noted is None else json.loads(noted)
    except Exception as error:  # protobuf's and JSON's own
        raise CheckpointError(f"{path} is not a readable ONNX file: {first_line(error)}") from None
    if not isinstance(description, dict) or not isinstance(description.get("architecture"), dict):
        raise CheckpointError(
            f"{path} is an ONNX model of another program, expected one of `distill export --to onnx`"
        )
    int8 = any(node.op_type == "MatMulInteger" for node in model.graph.node)
    config = architecture.make_config(description["architecture"], path)
    try:
        shapes = _shapes(model.graph, config)
    except (IndexError, StopIteration, ValueError):
        raise CheckpointError(f"{path} is a damaged ONNX file: its convolutions have no strides") from None
    stated = config.to_dict() | ({"front": config.front} if isinstance(config, HubertConfig) else {})
    architecture.compare(stated, shapes, path, "its metadata")
    parameters, targets, provenance, samples = (
        description.get(key) for key in ("parameters", "targets", "provenance", "samples")
    )
    return config, {
        "parameters": parameters if isinstance(parameters, int) else 0,
        "targets": targets if isinstance(targets, list) else None,
        "provenance": provenance if isinstance(provenance, dict) else {},
        "precision": "int8" if int8 else "float32",
        "samples": samples if isinstance(samples, int) else None,
    }


def _check_structure(path: Path) -> None:
    """Refuse a graph that takes gigabytes as objects: an empty one has two bytes in the file.

    Raises:
        ValueError: naming the size, or if it is damaged.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        left = [(0, len(data), "model")]
        counted = n_parts = 0
        while left:
            start, end, kind = left.pop()
            while start < end:
                field, begin, stop = _field(data, start, end)
                inner = _INNER[kind].get(field, "")
                if inner and inner in _INNER:
                    left.append((begin, stop, inner))
                counted += (begin if inner else stop) - start
                start, n_parts = stop, n_parts + 1
                if counted > _MAX_STRUCTURE or n_parts > _MAX_PARTS:
                    raise ValueError("its graph is far larger than that of any encoder")


def _field(data: mmap.mmap, start: int, end: int) -> tuple[int, int, int]:
    """Number of a field of Protocol Buffers, where its value begins, and where it ends."""
    tag, begin = _varint(data, start)
    kind = tag & 7
    if kind == 2:  # of a stated length
        length, begin = _varint(data, begin)
        stop = begin + length
    else:
        stop = _varint(data, begin)[1] if kind == 0 else begin + {1: 8, 5: 4}.get(kind, end)
    if stop > end:
        raise ValueError("it is damaged")
    return tag >> 3, begin, stop


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = 0
    for place in range(start, min(start + 10, len(data))):
        value |= (data[place] & 127) << 7 * (place - start)
        if data[place] < 128:
            return value, place + 1
    raise ValueError("it is damaged")


def _shapes(graph: Any, config: EncoderConfig) -> dict[str, Any]:
    """The fields of the configuration that a graph shows, as far as its weights have kept their names."""
    sizes = {tensor.name.removeprefix("encoder."): tuple(tensor.dims) for tensor in graph.initializer}
    spiral = isinstance(config, SpiralConfig)
    attentions = sum(node.op_type == "Softmax" for node in graph.node)
    if isinstance(config, HubertConfig) and config.reuse_attention:  # one map for two layers
        attentions = 2 * attentions - config.layers % 2
    found: dict[str, Any] = {"layers": attentions - (config.block1_layers if spiral else 0)}
    last = "block2." if spiral else ""
    position = sizes.get(f"{last}position.conv.parametrizations.weight.original1")  # (D, D / groups, kernel)
    taps = [size for name, size in sizes.items() if name.startswith(f"{last}position.conv.taps.")]
    if taps:  # in int8 a matrix for each group, (kernel D / groups, D / groups)
        position = len(taps) * taps[0][1], taps[0][1], taps[0][0] // max(taps[0][1], 1)
    if position is not None:
        found |= {"dim": position[0], "position_kernel": position[2]}
        found["position_groups"] = position[0] // max(position[1], 1)
    if isinstance(config, HubertConfig):
        found["front"] = "mel" if any(node.op_type == "DFT" for node in graph.node) else "cnn"
        if config.front == "mel" and (first := sizes.get("cnn.0.conv.weight")) is not None:
            found["mel_bands"] = first[1]
    stacks = {"cnn.": "conv_layers", "block1.convs.": "block1_conv_layers", "block2.convs.": "conv_layers"}
    for node in graph.node:
        name = node.input[1].removeprefix("encoder.") if node.op_type == "Conv" else ""
        field = next((stacks[start] for start in stacks if name.startswith(start)), None)
        if field is not None and name in sizes:
            (stride,) = next(attribute.ints for attribute in node.attribute if attribute.name == "strides")
            found.setdefault(field, []).append((sizes[name][0], sizes[name][2], stride))
    return found


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"ONNX needs {', '.join(missing)}: install them with `pip install 'robust-distilhubert[onnx]'`"
        )


class _TwoOutputs(nn.Module):
    """The encoder with the inputs and outputs of the exported graph."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        config = self.encoder.config
        lengths = torch.minimum(lengths, torch.full_like(lengths, waveforms.shape[1]))
        if isinstance(config, SpiralConfig):  # to whole frames: then no shape depends on remainders
            whole = config.frames(waveforms.shape[1]) * config.hop
            waveforms = nn.functional.pad(waveforms, (0, whole - waveforms.shape[1]))
        lengths = lengths.clamp(min=config.min_samples)
        out = self.encoder(waveforms, lengths)
        return out.last_hidden_state, out.lengths


def _trace(encoder: Encoder, description: str, n_samples: int | None) -> bytes:
    """The contents of the float32 file."""
    shapes: tuple[dict[int, Any], ...] | None = None
    shortest = 1 if isinstance(encoder.config, SpiralConfig) else encoder.config.min_samples
    if n_samples is None:
        batch = torch.export.Dim("batch")
        shapes = {0: batch, 1: torch.export.Dim("samples", min=shortest)}, {0: batch}
        # Two utterances of unequal lengths: sizes of 1 would become constants.
        examples = torch.zeros(2, SAMPLE_RATE), torch.tensor([SAMPLE_RATE, SAMPLE_RATE // 2])
    else:
        examples = torch.zeros(1, n_samples), torch.tensor([n_samples])
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():  # what is computed once and kept must be there before the graph is traced
            encoder(torch.zeros(1, encoder.config.min_samples))
        with _quiet():
            program = torch.onnx.export(
                _TwoOutputs(encoder).eval(),
                examples,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["waveforms", "lengths"],
                output_names=["last_hidden_state", "frames"],
                opset_version=_OPSET,
                external_data=False,
                verbose=False,
            )
    finally:
        encoder.train(training)
    assert program is not None
    model = program.model_proto
    # The exporter calls the dimension by the formula that gives it, and notes down where each line of code
    # lies on this machine.
    if n_samples is None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "frames"
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    model.metadata_props.add(key=_KEY, value=description)
    return model.SerializeToString()


def _quantize(source: Path, target: Path) -> None:
    """Weights of matrix products in int8, one scale a column; what they multiply is quantised as it runs.

    The scales are ours (`integer_weights`): with onnxruntime's, sums overflow on CPUs without VNNI. The
    positional convolution becomes such products. Other convolutions stay in float32: in int8 onnxruntime ran
    the model at half the speed, with three times the error. So do mel filters, whose input goes over many
    orders of magnitude.
    """
    import onnx
    from onnx import numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source), load_external_data=False).graph
    nodes, weights = graph.node, {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    front_end = [node.name for node in nodes if any(name.startswith(_FRONT_END) for name in node.input)]
    with files.atomic(target) as temporary, _quiet():
        quantize_dynamic(
            source,
            temporary,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=front_end,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(str(temporary), load_external_data=False)
        requantize(model, weights)
        quantize_grouped(model)
        temporary.write_bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice of exporter and quantiser, which is for their own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
