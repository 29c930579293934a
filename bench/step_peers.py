"""Distillation steps made of other libraries' models: the same shapes, batches and loss.

Each is a pair of functions: the teacher's targets, (B, N, F, D) without gradient, and the student's
predictions. The step around them is written once, as a plain PyTorch loop.

Shapes: B utterances, T samples, F frames, N prediction heads, D features.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.batches import Speech
from bench.contenders import Run
from bench.ours import TARGETS
from distill.hubert import PRESETS, HubertConfig
from distill.objective import distillation_loss
from distill.optim import OptimConfig
from distill.student import PredictionHeads
from distill.waveforms import frame_mask

LAYERS = 2
"""Of the student."""


@dataclass(frozen=True)
class Peer:
    """Models of another library."""

    trained: nn.Module
    """The student with its heads."""
    teacher: nn.Module
    targets: Callable[[Tensor, Tensor], Tensor]
    """(B, T), (B,) -> (B, N, F, D)."""
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(B, T), (B,), targets -> the loss of the student."""
    teacher_in_fp32: bool = False
    """Whether mixed precision is for the student alone."""


def make_step(
    peer: Callable[[HubertConfig, tuple[int, ...], bool], Peer],
    speech: Speech,
    *,
    device: str,
    precision: str,
    preset: str = "base",
) -> Run:
    """A step of a peer on the batch, which lies on the host.

    Raises:
        Exception: whatever the library raises, which cannot be imported or built.
    """
    made = peer(PRESETS[preset], TARGETS[preset], speech.full)
    made.teacher.requires_grad_(False).to(device)
    made.trained.train().to(device)
    options = OptimConfig()
    parameters = list(made.trained.parameters())
    optimizer = torch.optim.AdamW(parameters, **_adamw(options))
    waveforms = speech.waveforms.pin_memory() if device == "cuda" else speech.waveforms

    def autocast(on: bool) -> Any:
        return torch.autocast(device, torch.bfloat16, enabled=on and precision == "bf16")

    def run(number: int) -> None:
        waves = waveforms.to(device, non_blocking=True)
        lengths = speech.lengths.to(device, non_blocking=True)
        with torch.no_grad(), autocast(not made.teacher_in_fp32):
            targets = made.targets(waves, lengths)
        with autocast(True):
            loss = made.loss(waves, lengths, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return run


def _adamw(options: OptimConfig) -> dict[str, Any]:
    names = ("lr", "betas", "eps", "weight_decay")
    return {name: value for name, value in asdict(options).items() if name in names}


def torchaudio_peer(config: HubertConfig, layers: tuple[int, ...], full: bool) -> Peer:
    """The wav2vec2_model of torchaudio for both; heads and loss are ours, as it has none."""
    from torchaudio.models import wav2vec2_model

    def encoder(depth: int, *, projection: float, activation: float) -> Any:
        return wav2vec2_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=list(config.conv_layers),
            extractor_conv_bias=False,
            encoder_embed_dim=config.dim,
            encoder_projection_dropout=projection,
            encoder_pos_conv_kernel=config.position_kernel,
            encoder_pos_conv_groups=config.position_groups,
            encoder_num_layers=depth,
            encoder_num_heads=config.heads,
            encoder_attention_dropout=0.1,
            encoder_ff_interm_features=config.ffn_dim,
            encoder_ff_interm_dropout=activation,
            encoder_dropout=0.1,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            aux_num_out=None,
        )

    teacher = encoder(config.layers, projection=0.1, activation=0.0).eval()
    student = encoder(LAYERS, projection=0.0, activation=0.1)
    heads = PredictionHeads(config.dim, config.dim, len(layers))

    def targets(waves: Tensor, lengths: Tensor) -> Tensor:
        states, _ = teacher.extract_features(waves, None if full else lengths)
        return torch.stack([states[layer - 1] for layer in layers], dim=1)

    def loss(waves: Tensor, lengths: Tensor, goal: Tensor) -> Tensor:
        states, _ = student.extract_features(waves, None if full else lengths)
        return distillation_loss(heads(states[-1]), goal, config.frames(lengths)).total

    return Peer(nn.ModuleList([student, heads]), teacher, targets, loss)


def transformers_peer(config: HubertConfig, layers: tuple[int, ...], full: bool) -> Peer:
    """Hugging Face's HubertModel for both, with sdpa; heads and loss are ours, as it has none."""
    from transformers import HubertConfig as TheirConfig
    from transformers import HubertModel

    def encoder(depth: int, **options: Any) -> Any:
        theirs = TheirConfig(
            hidden_size=config.dim,
            num_hidden_layers=depth,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim,
            conv_dim=tuple(channels for channels, _, _ in config.conv_layers),
            conv_kernel=tuple(kernel for _, kernel, _ in config.conv_layers),
            conv_stride=tuple(stride for _, _, stride in config.conv_layers),
            num_conv_pos_embeddings=config.position_kernel,
            num_conv_pos_embedding_groups=config.position_groups,
            layerdrop=0.0,
            apply_spec_augment=False,
            **options,
        )
        theirs._attn_implementation = "sdpa"
        return HubertModel(theirs)

    teacher = encoder(config.layers).eval()
    student = encoder(LAYERS, feat_proj_layer_norm=False, feat_proj_dropout=0.0, activation_dropout=0.1)
    heads = PredictionHeads(config.dim, config.dim, len(layers))

    def mask(waves: Tensor, lengths: Tensor) -> Tensor | None:
        return None if full else frame_mask(lengths, waves.shape[1]).long()

    def targets(waves: Tensor, lengths: Tensor) -> Tensor:
        states = teacher(waves, mask(waves, lengths), output_hidden_states=True).hidden_states
        return torch.stack([states[layer] for layer in layers], dim=1)

    def loss(waves: Tensor, lengths: Tensor, goal: Tensor) -> Tensor:
        state = student(waves, mask(waves, lengths)).last_hidden_state
        return distillation_loss(heads(state), goal, config.frames(lengths)).total

    return Peer(nn.ModuleList([student, heads]), teacher, targets, loss)


def s3prl_peer(
    config: HubertConfig, layers: tuple[int, ...], full: bool, *, teacher_in_eval: bool = False
) -> Peer:
    """s3prl's HubertModel and DistillerModel with its configuration of DistilHuBERT.

    Its pre-training expert is not in the wheel. What it does around the models is written here after its
    definition: the teacher in single precision and, as its runner puts the whole in train mode, with
    dropout; the padding mask always given; L1 and -log sigmoid of the cosine, both means over padding, too.
    """
    import distill.upstream.s3prl_compat  # noqa: F401, I001
    from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel
    from s3prl.upstream.hubert.hubert_model import HubertModel, HubertPretrainingConfig
    from s3prl.upstream.hubert.hubert_model import HubertConfig as TheirConfig

    shape: dict[str, Any] = {
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.heads,
        "conv_pos": config.position_kernel,
        "conv_pos_groups": config.position_groups,
    }
    convolutions = str(list(config.conv_layers))
    own = TheirConfig(label_rate=50, encoder_layers=config.layers, conv_feature_layers=convolutions, **shape)
    teacher = HubertModel(own, HubertPretrainingConfig(), [None])
    teacher.train(not teacher_in_eval)
    found: dict[int, Tensor] = {}
    for layer in layers:  # (F, B, D) each
        keep = lambda module, given, out, layer=layer: found.update({layer: out[0].transpose(0, 1)})  # noqa: E731
        teacher.encoder.layers[layer - 1].register_forward_hook(keep)
    options = shape | {
        "extractor_conv_feature_layers": convolutions,
        "encoder_layers": LAYERS,
        "final_dim": config.dim,
        "feature_grad_mult": 0.1,
        "n_tasks": len(layers),
        "pred_layer_id": list(layers),
        "cosine_loss": 1.0,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        student = DistillerModel(DistillerConfig(options))

    def targets(waves: Tensor, lengths: Tensor) -> Tensor:
        padding = ~frame_mask(lengths, waves.shape[1])
        teacher.extract_features(waves, padding_mask=padding, mask=False)
        frames = config.frames(waves.shape[1])  # its layers pad to an even number, its expert cuts again
        return torch.stack([found[layer][:, :frames] for layer in layers], dim=1)

    def loss(waves: Tensor, lengths: Tensor, goal: Tensor) -> Tensor:
        valid = frame_mask(lengths, waves.shape[1]).float()
        _, _, predictions, _ = student(waves, valid)
        l1 = F.l1_loss(predictions, goal)
        return l1 - F.logsigmoid(F.cosine_similarity(predictions, goal, dim=-1)).mean()

    return Peer(student, teacher, targets, loss, teacher_in_fp32=True)


def s3prl_eval_peer(config: HubertConfig, layers: tuple[int, ...], full: bool) -> Peer:
    """The same with the teacher in eval mode."""
    return s3prl_peer(config, layers, full, teacher_in_eval=True)


def minimal_hubert_peer(config: HubertConfig, layers: tuple[int, ...], full: bool) -> Peer:
    """Not yet compared: see the message.

    Raises:
        RuntimeError: always.
    """
    if importlib.util.find_spec("minimal_hubert") is None:
        raise RuntimeError("minimal-hubert is not installed: it needs Python 3.12 and torch 2.12.1")
    raise RuntimeError("minimal-hubert has no shallow student: only its pre-training could be timed")


PEERS: dict[str, Callable[[HubertConfig, tuple[int, ...], bool], Peer]] = {
    "s3prl, as its runner leaves it": s3prl_peer,
    "s3prl, teacher in eval": s3prl_eval_peer,
    "torchaudio": torchaudio_peer,
    "transformers, sdpa": transformers_peer,
    "minimal-hubert": minimal_hubert_peer,
}
