"""Roughly how much disk, memory and GPU memory a recipe needs, from shapes alone: nothing is loaded or run.

Shapes: B utterances, T samples at 16 kHz, F frames, C channels of the CNN, D features, N prediction heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from distill.data.parcels import OPEN_FILES_PER_BATCH
from distill.encoder import Encoder, EncoderConfig
from distill.hubert import HubertConfig
from distill.objective import ObjectiveConfig, Terms
from distill.options import CDM, AdaptRecipe, DistillRecipe, HeadsConfig, Recipe, SpiralRecipe
from distill.spiral.encoder import SpiralConfig
from distill.spiral.heads import Predictor, Projection
from distill.student import Student, encoder_of
from distill.training.devices import Layout
from distill.transformer import TransformerConfig
from distill.waveforms import SAMPLE_RATE

_FLOAT = 4  # bytes: weights, gradients and optimiser are float32 in mixed precision, too
_CHECKPOINTS = 2  # last.ckpt and best.ckpt
_LOGS = 100_000_000  # CSV, TensorBoard, Weights & Biases of a long run, generously
# Resident set of a process that trains (measured on a CPU: 0.9 GB), what CUDA adds, and what a data worker
# has apart from memory shared with its parent (measured: 0.02 GB, more as Python touches shared pages).
_PROCESS, _CUDA, _WORKER = 1_000_000_000, 2_000_000_000, 300_000_000
_OPEN_FILES = 100  # of a process that trains, including its workers' pipes
_PREFETCHED = 2  # batches that each worker has ready, as torch's DataLoader does by default
_CUDA_CONTEXT = 600_000_000  # on the GPU itself
_UNITS = 500  # clusters of a codebook, which is not opened
_SPECTRUM = 3.2  # numbers of a spectrum of SPIRAL, two for each of 257 frequencies, per sample
_FRAGMENTS = 1.1  # what the caching allocator cannot use


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes needed on a machine and on one GPU."""

    disk: int
    """For checkpoints, the release and logs."""
    host: int
    """Memory of the machine, for all its processes."""
    device: int
    """Memory of one GPU; on a CPU it is part of `host`."""
    shared: int = 0
    """Shared memory of the machine, part of `host`: batches that data workers have handed over."""
    open_files: int = 0
    """Of one process."""


def estimate(recipe: Recipe, teacher: EncoderConfig, layout: Layout) -> Needs:
    """What training needs.

    With P trained and Q frozen parameters, all in float32:

    * disk: 4 P x (weights + 2 moments of Adam) x 2 checkpoints + 4 P for the release + logs;
    * GPU: 4 Q + 4 P x (weights, gradients, 2 moments) + what the backward pass needs
      (`activation_bytes` and `terms_bytes`, or the teacher's largest layer if that is more) + twice the
      largest activation while it is computed; a tenth on top for fragments, and the CUDA context;
    * pre-training a SPIRAL: P is the student with its heads, Q its moving average;
    * host: for each process itself, its models once, its workers and the batches they have ready.

    Args:
        recipe: of any kind that trains.
        teacher: its teacher's architecture.
        layout: its processes.

    Raises:
        ValueError: if the student or its objective does not fit the teacher; says how.
    """
    with torch.device("meta"):
        encoder = encoder_of(teacher)
        trained_model, heads = _trained(recipe, encoder)
        head = _spiral_heads(recipe.heads, teacher.dim) if isinstance(recipe, SpiralRecipe) else ()
        terms = _terms(recipe, trained_model, teacher)
    trained = _parameters(trained_model) + sum(map(_parameters, [*head, *terms]))
    frozen = _parameters(encoder) if isinstance(recipe, DistillRecipe | SpiralRecipe) else 0
    samples = batch_samples(recipe) / (layout.processes * layout.nodes)
    part = samples / recipe.optim.accumulate
    trained_config = (trained_model.encoder if isinstance(trained_model, Student) else trained_model).config
    longest = min(recipe.data.max_samples, part)
    working = activation_bytes(trained_config, part, heads=heads, longest=longest) + 2 * _largest(
        trained_config, part
    )
    if terms and isinstance(trained_model, Student):
        working += terms_bytes(terms[0], trained_model, part, longest)
    if frozen:
        working = max(working, 3 * _largest(teacher, part))
    if "16" in str(recipe.trainer.get("precision", "32")):
        working *= 0.7  # the first convolution, the largest, stays in float32
    device = _FLOAT * (frozen + 4 * trained) + int(working)
    streams = len({s for s in CDM[recipe.cdm] if s}) if isinstance(recipe, DistillRecipe) else 1
    batch = samples * _FLOAT * (1 + streams)
    batches = recipe.data.workers * _PREFETCHED * batch
    on_hand = _PREFETCHED * (recipe.data.workers + min(recipe.data.workers, 2))  # of the dev set, too
    own = _PROCESS + _FLOAT * (frozen + trained) + recipe.data.workers * _WORKER + int(batches)
    return Needs(
        disk=_FLOAT * trained * (3 * _CHECKPOINTS + 1) + _LOGS,
        host=layout.processes * (own + (_CUDA if layout.gpu else device)),
        device=int(device * _FRAGMENTS) + _CUDA_CONTEXT,
        shared=layout.processes * int(on_hand * batch),
        open_files=_OPEN_FILES + OPEN_FILES_PER_BATCH * on_hand,
    )


def _trained(recipe: Recipe, encoder: Encoder) -> tuple[Encoder | Student, int]:
    """The model that the recipe trains, and how many heads of its own width it has, or as much as these."""
    if not isinstance(recipe, DistillRecipe):
        return encoder, 0
    student = Student.from_teacher(encoder, **vars(recipe.student))
    return student, math.ceil(len(student.targets) * student.target_dim / student.encoder.config.dim)


def _terms(recipe: Recipe, student: Encoder | Student, teacher: EncoderConfig) -> list[Terms]:
    """What a student learns from beside Eq. 2, if anything."""
    if not isinstance(recipe, DistillRecipe) or not recipe.objective.terms_on():
        return []
    assert isinstance(student, Student)
    config, units = student.encoder.config, torch.empty(_UNITS, teacher.dim)
    return [Terms(recipe.objective, recipe.cosine_weight, config, teacher, codebook=units)]


def _spiral_heads(options: HeadsConfig, dim: int) -> list[nn.Module]:
    """What a SPIRAL has behind its encoder in pre-training."""
    heads: list[nn.Module] = [Projection(dim, options.dim, kind=cast(Any, options.projection))]
    if options.predictor != "none":
        heads.append(Predictor(options.dim, norm=cast(Any, options.predictor)))
    return heads


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def batch_samples(recipe: Recipe) -> float:
    """Samples of the largest global batch: every utterance as long as crops may be, or `batch_seconds`."""
    data = recipe.data
    if data.batch_seconds is not None:
        return data.batch_seconds * SAMPLE_RATE
    return float(data.batch_size * data.max_samples)


def activation_bytes(
    config: EncoderConfig, n_samples: float, *, heads: int = 0, longest: float | None = None
) -> float:
    """What the forward pass keeps for the backward pass, in float32.

    A convolution of HuBERT keeps its output twice (for GELU, for the next one) and once more where it is
    normalised; one of SPIRAL its input, its output for layer norm twice, and once more for ReLU and dropout.
    A transformer layer keeps about 10 tensors of width D (8 where it reuses an attention map) and 3 of the
    feed-forward width a frame; the heads and the loss 6 of D each. Attention matrices are not counted:
    kernels for GPUs do not keep them. A WavLM's do, in what is added to them, in every layer that makes one.

    Args:
        config: of the encoder.
        n_samples: B x T.
        heads: N.
        longest: samples of the longest utterance, for WavLM; None: `n_samples` is one utterance.
    """
    if isinstance(config, SpiralConfig):
        return _spiral_activation_bytes(config, n_samples) + _FLOAT * n_samples / config.hop * (
            6 * heads * config.dim
        )
    assert isinstance(config, HubertConfig)
    kept, frames = 0.0, float(n_samples)
    if config.front == "mel":
        frames *= math.prod(stride for _, _, stride in config.conv_layers) / config.hop
        kept = config.mel_bands * frames
    for index, (channels, _, stride) in enumerate(config.conv_layers):
        frames /= stride
        normalised = config.conv_norm == "layer" or index == 0
        kept += (3 if normalised else 2) * channels * frames
    if config.relative_buckets:
        maps = 1 if config.activation_checkpointing else config.layers
        maps -= maps // 2 if config.reuse_attention else 0
        per_frame = (n_samples if longest is None else longest) / config.hop
        kept += maps * config.heads * per_frame * frames
    return _FLOAT * (kept + frames * (_kept_by_layers(config.transformer) + 6 * heads * config.dim))


def terms_bytes(terms: Terms, student: Student, n_samples: float, longest: float) -> float:
    """What the terms of an objective keep for the backward pass, in float32, beside their parameters.

    A frame has 3 D numbers for the transformer's input; 2 N D for correlations, and those 5 N matrices of
    D x D; 2 D for relations of each of M pairs of layers, and those 2 M - 1 matrices of F x F an utterance;
    D + 2 P + K for units (P features, K units); D + 3 S for enhancement (S frequencies), and 8 for each cell
    of its LSTM.

    Args:
        terms: of the objective.
        student: whose terms they are.
        n_samples: B x T.
        longest: samples of the longest utterance.
    """
    options: ObjectiveConfig = terms.options
    config, width = student.encoder.config, student.target_dim
    dim, frames = config.dim, n_samples / config.hop
    kept = 0.0
    if "input" in terms.weights:
        kept += 3 * dim * frames
    if "correlation" in terms.weights:
        kept += len(student.targets) * width * (2 * frames + 5 * width)
    if "relations" in terms.weights:
        matched = len(terms.matched)
        kept += frames * (2 * matched * dim + (2 * matched - 1) * longest / config.hop)
    if "units" in terms.weights:
        kept += frames * (dim + 2 * options.units.dim + len(terms.units.codebook))
    if "enhancement" in terms.weights:
        head = terms.enhancement
        cells = 2 * options.enhancement.dim * options.enhancement.layers
        kept += frames * (head.rnn.input_size + 3 * head.mask.out_features + 8 * cells)
    return _FLOAT * kept


def _spiral_activation_bytes(config: SpiralConfig, n_samples: float) -> float:
    """`activation_bytes` of both blocks."""
    frames, channels_in, kept = n_samples * config.stride / config.hop, config.bands, 0.0
    stacks = (config.block1_conv_layers, config.conv_layers)
    for convolutions, transformer in zip(stacks, config.transformers, strict=True):
        for channels, kernel, stride in convolutions:
            kept += channels_in * frames
            frames /= stride
            kept += (3 if kernel > 1 else 2) * channels * frames
            channels_in = channels
        kept += frames * _kept_by_layers(transformer)
    return _FLOAT * kept


def _kept_by_layers(config: TransformerConfig) -> int:
    """Numbers that a transformer keeps of each frame."""
    layer = 10 * config.dim + 3 * config.ffn_dim
    if config.activation_checkpointing:
        return layer + config.layers * config.dim
    reusing = config.layers // 2 if config.reuse_attention else 0
    return config.layers * layer - reusing * 2 * config.dim


def _largest(config: EncoderConfig, n_samples: float) -> float:
    """Bytes of the output of the first convolution; of log-mels, of the complex spectrum and windows."""
    if isinstance(config, SpiralConfig) or (isinstance(config, HubertConfig) and config.front == "mel"):
        return _FLOAT * n_samples * 2 * _SPECTRUM
    assert isinstance(config, HubertConfig)
    channels, _, stride = config.conv_layers[0]
    return _FLOAT * channels * n_samples / stride


def targets_bytes(recipe: AdaptRecipe, teacher: EncoderConfig, hours: float) -> int:
    """Disk for the k-means labels of a corpus: one for each frame, two bytes each."""
    return 0 if recipe.targets.folder else int(hours * 3600 * SAMPLE_RATE / teacher.hop * 2)


def available_memory() -> int | None:
    """Bytes that can still be used here, within the limit of a container or job; None where unknown."""
    found: list[int] = []
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text(encoding="utf-8").splitlines())
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    if limit.exists() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        found.append(int(text))
    return min(found, default=None)
