"""Adversarial noise: the change of a given energy that a model likes least, found by its gradient.

Both attacks raise the model's own loss for what was really said, through the whole encoder, and change the
waveform by exactly the energy that the SNR allows. FGSM (Goodfellow et al. 2015) takes the sign of one
gradient; PGD (Madry et al. 2018) starts at white noise and follows the gradient for several steps on the
sphere of that energy. What white noise of the same SNR does is the control: `perturbations.WhiteNoise`.

Shapes: B utterances, T samples at 16 kHz.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from lhotse.cut import Cut
from torch import Tensor
from typing_extensions import override

from distill.analysis.probes.perturbations import Perturbation, check_snr
from distill.analysis.recognition import Recogniser
from distill.errors import UsageError
from distill.waveforms import frame_mask, is_silent

STEPS = 10
"""Of PGD."""
GRID = (60.0, 50.0, 40.0, 30.0, 20.0, 10.0)
"""Signal-to-noise ratios, dB: at the highest the change can hardly be heard."""
_REACH = 2.5  # of all steps together, in radii of the sphere: enough to cross it, as in Madry's code


def fgsm(
    recogniser: Recogniser,
    cuts: Sequence[Cut],
    waveforms: Tensor,
    lengths: Tensor,
    noises: Tensor,
    snr_db: float,
) -> tuple[Tensor, Tensor]:
    """Fast gradient sign method, scaled to an SNR.

    x + r sign(g) / |sign(g)|, with g the gradient of the loss at x and r = |x| 10^(-SNR / 20).

    Args:
        recogniser: whose loss is raised.
        cuts: B utterances, for what was said.
        waveforms: (B, T); not modified.
        lengths: (B,) int64, valid samples.
        noises: (B, T), used where the gradient is zero, as of transcripts too long for CTC.
        snr_db: of the change, over the valid samples.

    Returns:
        (B, T), padding unchanged; (B,) bool, where there was a gradient. Silent speech is left as it is.
    """
    valid, radius = _sphere(waveforms, lengths, snr_db)
    gradient, _ = _gradient(recogniser, cuts, waveforms, lengths)
    found = _norm(gradient) > 0
    change = torch.where(found, gradient.sign(), noises) * valid
    return waveforms + _scaled(change, radius), found[:, 0]


def pgd(
    recogniser: Recogniser,
    cuts: Sequence[Cut],
    waveforms: Tensor,
    lengths: Tensor,
    noises: Tensor,
    snr_db: float,
    *,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Projected gradient descent: follow the normalised gradient on the sphere |change| = r.

    Of all points on the way, the one of highest loss is taken.

    Args:
        recogniser: as for `fgsm`, as are the others.
        cuts: B utterances.
        waveforms: (B, T); not modified.
        lengths: (B,) int64.
        noises: (B, T), where it starts.
        snr_db: of the change.
        steps: of the gradient.

    Returns:
        As `fgsm`.
    """
    valid, radius = _sphere(waveforms, lengths, snr_db)
    change = best = _scaled(noises * valid, radius)
    highest = torch.full_like(radius, -torch.inf)
    found = torch.zeros_like(radius, dtype=torch.bool)
    for step in range(steps + 1):
        gradient, losses = _gradient(recogniser, cuts, waveforms + change, lengths)
        better = losses[:, None] > highest
        best, highest = torch.where(better, change, best), torch.where(better, losses[:, None], highest)
        if step < steps:
            found |= _norm(gradient) > 0
            change = _scaled(change + _scaled(gradient * valid, _REACH / steps * radius), radius)
    return waveforms + best, found[:, 0]


def _sphere(waveforms: Tensor, lengths: Tensor, snr_db: float) -> tuple[Tensor, Tensor]:
    """(B, T) valid samples, and (B, 1) the norm of a change of that SNR; 0 for silent speech."""
    valid = frame_mask(lengths, waveforms.shape[1])
    norms = _norm(waveforms * valid)
    silent = [is_silent(row[:count]) for row, count in zip(waveforms, lengths.tolist(), strict=True)]
    norms = norms.masked_fill(torch.tensor(silent)[:, None], 0.0)
    return valid, norms * 10 ** (-snr_db / 20)


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def _scaled(rows: Tensor, norms: Tensor) -> Tensor:
    """Rows with these norms; those of zeros stay zero."""
    return rows * (norms / _norm(rows).clamp(min=torch.finfo(rows.dtype).tiny))


def _gradient(
    recogniser: Recogniser, cuts: Sequence[Cut], waveforms: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, T) gradient of each utterance's loss, 0 where it is not finite, and (B,) the losses."""
    inputs = waveforms.detach().clone().requires_grad_()
    # cuDNN may choose algorithms that add up in another order each time, as CTC on a GPU does.
    with torch.enable_grad(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        outputs, frames = recogniser.outputs(inputs, lengths)
        losses = recogniser.loss(outputs.float().cpu(), frames.cpu(), cuts)
        (gradient,) = torch.autograd.grad(losses.sum(), inputs)
    finite = torch.isfinite(gradient).all(1, keepdim=True)
    return gradient.masked_fill(~finite, 0.0), losses.detach().nan_to_num(-torch.inf)


@dataclass(frozen=True)
class Attack(Perturbation):
    """Adversarial noise at an SNR, for each model its own unless it is made on one of them."""

    made_on: Recogniser | None = None
    """The model whose gradient is followed, whose audio all then hear; None: the one that hears it."""
    without_gradient: Counter[str] = field(default_factory=Counter, compare=False)
    """How many utterances got white noise for want of a gradient, by name of the model."""
    unit: ClassVar[str] = "dB SNR"
    label: ClassVar[str] = "SNR (dB)"
    harder_when_lower: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_snr(self)

    @property
    @override
    def per_model(self) -> bool:
        return self.made_on is None

    @property
    @override
    def drawn(self) -> str:
        return "adversarial"

    @property
    @override
    def what(self) -> str:
        return "made on each model" if self.made_on is None else f"made on {self.made_on.identity}"

    @override
    def of(self, recogniser: Recogniser, cut: Cut) -> Callable[[Tensor, torch.Generator], Tensor]:
        victim = self.made_on or recogniser

        def change(waveform: Tensor, generator: torch.Generator) -> Tensor:
            noise = torch.randn(len(waveform), generator=generator)
            lengths = torch.tensor([len(waveform)])
            if len(waveform) < victim.model.receptive_field:  # nothing to follow
                _, radius = _sphere(waveform[None], lengths, self.value)
                changed, found = waveform[None] + _scaled(noise[None], radius), torch.tensor([False])
            else:
                changed, found = self._attack(victim, cut, waveform[None], lengths, noise[None])
            if not found and not is_silent(waveform):
                self.without_gradient[victim.name] += 1
            return changed[0]

        return change

    @abstractmethod
    def _attack(
        self, victim: Recogniser, cut: Cut, waveform: Tensor, length: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`fgsm` or `pgd` of one utterance."""

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        raise TypeError(f"{self.name} depends on the model and on what was said: call `of` first")


@dataclass(frozen=True)
class Fgsm(Attack):
    """The fast gradient sign method."""

    name: ClassVar[str] = "fgsm"

    @override
    def _attack(
        self, victim: Recogniser, cut: Cut, waveform: Tensor, length: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        return fgsm(victim, [cut], waveform, length, noise, self.value)


@dataclass(frozen=True)
class Pgd(Attack):
    """Projected gradient descent."""

    steps: int = STEPS
    """Gradients followed."""
    name: ClassVar[str] = "pgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise UsageError(f"pgd needs at least one step, not {self.steps}")

    @property
    @override
    def what(self) -> str:
        return f"{self.steps} steps, {super().what}"

    @override
    def _attack(
        self, victim: Recogniser, cut: Cut, waveform: Tensor, length: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        return pgd(victim, [cut], waveform, length, noise, self.value, steps=self.steps)


ATTACKS: Mapping[str, type[Fgsm | Pgd]] = {kind.name: kind for kind in (Fgsm, Pgd)}
"""By name."""
