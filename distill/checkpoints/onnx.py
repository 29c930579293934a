"""ONNX: an encoder for onnxruntime and the devices behind it, in float32 and with int8 weights.

Inputs: waveforms (B, T) float32 at 16 kHz, padded at the end; lengths (B,) int64, valid samples. A length
below those of one frame (400) counts as one frame, one beyond T as T: a graph cannot refuse them.
Outputs: last_hidden_state (B, F, D), the last layer (z in Eq. 1 of the paper), after the final layer norm of
pre-norm models; frames (B,) int64, valid ones.
B and T are free. Statistics are masked as in `HubertEncoder`: a padded batch gives what each row alone gives.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.checkpoints import architecture, files
from distill.errors import CheckpointError, first_line
from distill.hubert import HubertConfig, HubertEncoder
from distill.student import Student
from distill.waveforms import SAMPLE_RATE

_KEY = "distill"  # of our description in the file's metadata
_OPSET = 18  # what torch's exporter writes without converting


def int8_path(path: Path) -> Path:
    """Where `write` puts the int8 version of a .onnx file."""
    return path.with_name(f"{path.stem}.int8{path.suffix}")


def write(model: HubertEncoder | Student, path: Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write an encoder, without prediction heads, as `NAME.onnx` and `NAME.int8.onnx`.

    Args:
        model: a student; a plain encoder works as well.
        path: the .onnx file.
        provenance: plain values, kept in the file's metadata.

    Returns:
        The path of the float32 file.

    Raises:
        CheckpointError: if packages are missing, or the files cannot be written.
    """
    _require("onnx", "onnxscript", "onnxruntime")
    encoder = model.encoder if isinstance(model, Student) else model
    description = {
        "architecture": encoder.config.to_dict(),
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "targets": list(model.targets) if isinstance(model, Student) else None,
        "provenance": provenance or {},
    }
    contents = _trace(encoder, json.dumps(description))
    with files.atomic(path) as temporary:
        temporary.write_bytes(contents)
    _quantize(path, int8_path(path))
    return path


def describe(path: Path) -> tuple[HubertConfig, dict[str, Any]]:
    """What `write` noted down in a .onnx file.

    Returns:
        The encoder's architecture, and "parameters", "targets" (None for a plain encoder), "provenance" and
        "precision" ("float32" or "int8").

    Raises:
        CheckpointError: if the file is damaged or was not written by `write`, or the package onnx is missing.
    """
    _require("onnx")
    import onnx

    try:
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
        shapes = _shapes(model.graph)
    except (IndexError, StopIteration, ValueError):
        raise CheckpointError(f"{path} is a damaged ONNX file: its convolutions have no strides") from None
    architecture.compare(config.to_dict(), shapes, path, "its metadata")
    parameters, targets, provenance = (
        description.get(key) for key in ("parameters", "targets", "provenance")
    )
    return config, {
        "parameters": parameters if isinstance(parameters, int) else 0,
        "targets": targets if isinstance(targets, list) else None,
        "provenance": provenance if isinstance(provenance, dict) else {},
        "precision": "int8" if int8 else "float32",
    }


def _shapes(graph: Any) -> dict[str, Any]:
    """The fields of `HubertConfig` that a graph shows, as far as its weights have kept their names."""
    sizes = {tensor.name.removeprefix("encoder."): tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Any] = {"layers": sum(node.op_type == "Softmax" for node in graph.node)}
    position = sizes.get("position.conv.parametrizations.weight.original1")  # (D, D / groups, kernel)
    if position is not None:
        found |= {"dim": position[0], "position_kernel": position[2]}
        found["position_groups"] = position[0] // max(position[1], 1)
    layers = []
    for node in graph.node:
        name = node.input[1].removeprefix("encoder.") if node.op_type == "Conv" else ""
        if name.startswith("cnn.") and name in sizes:
            (stride,) = next(attribute.ints for attribute in node.attribute if attribute.name == "strides")
            layers.append((sizes[name][0], sizes[name][2], stride))
    return found | ({"conv_layers": layers} if layers else {})


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"ONNX needs {', '.join(missing)}: install them with `pip install 'robust-distilhubert[onnx]'`"
        )


class _TwoOutputs(nn.Module):
    """The encoder with the inputs and outputs of the exported graph."""

    def __init__(self, encoder: HubertEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        most = torch.full_like(lengths, waveforms.shape[1])
        lengths = torch.minimum(lengths.clamp(min=self.encoder.config.receptive_field), most)
        out = self.encoder(waveforms, lengths)
        return out.last_hidden_state, out.lengths


def _trace(encoder: HubertEncoder, description: str) -> bytes:
    """The contents of the float32 file."""
    batch = torch.export.Dim("batch")
    samples = torch.export.Dim("samples", min=encoder.config.receptive_field)
    # Two utterances of unequal lengths: sizes of 1 would become constants.
    examples = torch.zeros(2, SAMPLE_RATE), torch.tensor([SAMPLE_RATE, SAMPLE_RATE // 2])
    training = encoder.training
    encoder.eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                _TwoOutputs(encoder).eval(),
                examples,
                dynamo=True,
                dynamic_shapes=({0: batch, 1: samples}, {0: batch}),
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
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "frames"
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    model.metadata_props.add(key=_KEY, value=description)
    return model.SerializeToString()


def _quantize(source: Path, target: Path) -> None:
    """Weights of matrix products in int8, one scale a column; what they multiply is quantised as it runs.

    Convolutions stay in float32: in int8 onnxruntime ran the model at half the speed, with three times
    the error.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with files.atomic(target) as temporary, _quiet():
        quantize_dynamic(
            source,
            temporary,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


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
