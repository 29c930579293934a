"""Audio and spectrograms of what the networks hear, for a run's loggers.

Shapes: B utterances, T samples at 16 kHz, F frames, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor
from typing_extensions import override

from distill.batch import Batch
from distill.distortions.plan import UtterancePlan
from distill.training.loggers import SafeLogger
from distill.waveforms import SAMPLE_RATE


@dataclass
class Heard:
    """One utterance as a network heard it."""

    samples: np.ndarray
    """(T,) float32 within +-1."""
    caption: str
    """The utterance and its distortions."""


class Listening(Callback):
    """Every so many steps, what teacher and student hear of one utterance: audio and log-mel spectrograms.

    For modules that name the views of their networks (`teacher_view`, `student_view`); of others, the
    view "student" of the batch if it has one, else the clean speech.
    """

    def __init__(self, every_n_steps: int):
        self.every_n_steps = every_n_steps
        self.shown = 0

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or step == self.shown:
            return
        self.shown = step
        if trainer.is_global_zero:
            sounds = heard(pl_module, batch)
            for logger in trainer.loggers:
                if isinstance(logger, SafeLogger):
                    logger.attempt(partial(show, sounds=sounds, step=step - 1))  # Lightning counts from 0


def heard(module: pl.LightningModule, batch: Batch) -> dict[str, Heard]:
    """What each network hears of a batch's first utterance."""
    first = batch[:1]
    streams: dict[str, str | None] = {"model": "student" if "student" in first.views else None}
    if hasattr(module, "student_view"):
        streams = {name: getattr(module, f"{name}_view") for name in ("teacher", "student")}
    sounds = {}
    for name, stream in streams.items():
        waveforms, how = first.waveforms, "clean"
        if stream is not None:
            view = first.views[stream]
            distorter: Any = module.distorter
            waveforms, _ = view.distort(distorter, waveforms, first.lengths)
            how = describe(view.plan[0])
        samples = waveforms[0].float().clamp(-1, 1).cpu().numpy()
        sounds[name] = Heard(samples, f"{name}, {first.ids[0]}: {how}")
    return sounds


def describe(plan: UtterancePlan) -> str:
    """A plan in words, in the order in which it is applied."""
    noise = "" if plan.additive == "none" else f"{plan.additive} at {plan.snr_db:.1f} dB SNR"
    effect = {
        "none": "",
        "reverb": f"reverb of a {plan.room_scale} % room",
        "pitch": f"pitch {plan.cents:+.0f} cents",
        "band_reject": f"without {plan.low_hz:.0f}-{plan.high_hz:.0f} Hz",
        "clipping": f"clipped at {100 * plan.clip_factor:.0f} % of its extremes",
        "time_drop": f"{1000 * plan.n_dropped / SAMPLE_RATE:.1f} ms silenced",
    }[plan.non_additive]
    steps = ["recorded room" if plan.rir else "", noise, effect]
    return ", then ".join(step for step in steps if step) or "clean"


def show(logger: Logger, sounds: dict[str, Heard], step: int) -> None:
    """Hand sounds and their spectrograms to a logger that can show them."""
    if isinstance(logger, WandbLogger):
        import wandb

        media: dict[str, Any] = {
            f"heard/{name}": wandb.Audio(sound.samples, sample_rate=SAMPLE_RATE, caption=sound.caption)
            for name, sound in sounds.items()
        }
        caption = "; ".join(sound.caption for sound in sounds.values())
        media["heard/spectrograms"] = wandb.Image(draw_spectrograms(sounds), caption=caption)
        logger.log_metrics(media, step)
    elif isinstance(logger, TensorBoardLogger):
        for name, sound in sounds.items():
            samples = torch.from_numpy(sound.samples)[None]
            logger.experiment.add_audio(f"heard/{name}", samples, step, sample_rate=SAMPLE_RATE)
        picture = draw_spectrograms(sounds)
        logger.experiment.add_image("heard/spectrograms", picture, step, dataformats="HWC")


def draw_spectrograms(sounds: dict[str, Heard]) -> np.ndarray:
    """Log-mel spectrograms below each other, captions as titles; (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6 * len(sounds)), layout="constrained")  # not pyplot's: no close
    canvas = FigureCanvasAgg(figure)
    for axes, sound in zip(figure.subplots(len(sounds), squeeze=False)[:, 0], sounds.values(), strict=True):
        mels = log_mel(torch.from_numpy(sound.samples)).numpy()
        seconds = len(sound.samples) / SAMPLE_RATE
        axes.imshow(mels, origin="lower", aspect="auto", extent=(0, seconds, 0, len(mels)), cmap="magma")
        axes.set_title(sound.caption, fontsize=9)
        axes.set_ylabel("mel band")
    axes.set_xlabel("seconds")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def log_mel(samples: Tensor) -> Tensor:
    """(T,) at 16 kHz -> (M, F): 64 mel bands, 25 ms windows every 10 ms, in dB, at most 80 below the top."""
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    mels = MelSpectrogram(SAMPLE_RATE, n_fft=512, win_length=400, hop_length=160, n_mels=64)(samples)
    return AmplitudeToDB(top_db=80.0)(mels)
