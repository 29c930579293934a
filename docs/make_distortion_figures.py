"""Draw docs/img/*.png: spectrograms of each effect, ours next to sox's stored output.

python docs/make_distortion_figures.py
"""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.distortions import additive, band_reject, clipping, pitch, reverb, time_drop

DOCS = Path(__file__).parent
GOLDEN = DOCS.parent / "tests" / "golden" / "sox_effects.npz"
RATE = 16_000
SHOWN_DB = 80

AGAINST_SOX: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "reverb": ("reverb, room 100", "reverb_room100", lambda x: reverb.apply(x, None, [100])),
    "band_reject": (
        "band rejection, 3000-6500 Hz",
        "bandreject_3000_6500",
        lambda x: band_reject.apply(x, None, [3000], [6500]),
    ),
    "pitch": ("pitch, +300 cents", "pitch_300", lambda x: pitch.apply(x, None, [300])),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Gaussian noise, 10 dB": lambda x: additive.apply(
        x, None, additive.gaussian([x.shape[1]], seeds=[0]), [10]
    ),
    "clipping, factor 0.1": lambda x: clipping.apply(x, None, [0.1]),
    "time drop, 100 ms": lambda x: time_drop.apply(x, None, [16_000], [1_600]),
}


def main() -> None:
    """Draw one picture per effect of sox, and one of the others."""
    with np.load(GOLDEN) as file:
        outputs = {name: file[name] for name in file.files}
    speech = torch.from_numpy(outputs["input"])[None]
    loudest = spectrogram_db(outputs["input"]).max()
    for name, (title, key, effect) in AGAINST_SOX.items():
        ours = effect(speech)[0].numpy()
        panels = {"input": outputs["input"], f"{title}: ours": ours, f"{title}: sox": outputs[key]}
        draw(panels, loudest, DOCS / "img" / f"{name}.png", top_khz=3 if name == "pitch" else 8)
    others = {title: effect(speech)[0].numpy() for title, effect in OTHERS.items()}
    draw(others, loudest, DOCS / "img" / "others.png")


def draw(panels: dict[str, np.ndarray], loudest: float, path: Path, top_khz: int = 8) -> None:
    """Spectrograms side by side, on one scale of levels."""
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 2.9), sharey=True, layout="constrained")
    for axis, (title, samples) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(
            spectrogram_db(samples) - loudest,
            origin="lower",
            aspect="auto",
            extent=(0, len(samples) / RATE, 0, RATE / 2000),
            vmin=-SHOWN_DB,
            vmax=0,
            cmap="magma",
        )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("time, s")
        axis.set_ylim(0, top_khz)
    axes[0].set_ylabel("frequency, kHz")
    figure.colorbar(image, ax=axes, label="dB below the input's loudest", pad=0.01)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)  # half the size


def spectrogram_db(samples: np.ndarray) -> np.ndarray:
    """Power of 32 ms frames every 8 ms, (frequencies, frames) in dB."""
    frames = torch.stft(
        torch.from_numpy(samples), 512, hop_length=128, window=torch.hann_window(512), return_complex=True
    )
    return 10 * torch.log10(frames.abs().square() + 1e-12).numpy()


if __name__ == "__main__":
    main()
