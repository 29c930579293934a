"""Draw docs/img/method.svg: how a student is distilled, with two distortions of the same speech.

python docs/make_method_figure.py
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parent / "img" / "method.svg"
WIDTH, HEIGHT = 112, 52  # units of the drawing; ten of them are an inch

INK, FAINT = "#24292f", "#8c959f"
TEACHER, STUDENT, LOSS, CLASSIFIER = "#2f6fb5", "#2e8b57", "#b7791f", "#c0392b"

LAYERS, PREDICTED = 12, (4, 8, 12)
TEACHER_MIDDLE, STUDENT_MIDDLE = 41.0, 9.5  # height of the paths through the two models
LAYER_X = {layer: 61 + 2.3 * layer for layer in range(1, LAYERS + 1)}


def main() -> None:
    """Draw and save the figure."""
    plt.rcParams |= {"svg.hashsalt": "method", "font.size": 9.5, "text.color": INK}
    figure = plt.figure(figsize=(WIDTH / 10, HEIGHT / 10))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    # A card of its own: GitHub shows pages on white and on black.
    box(axes, (0.6, 0.6), (WIDTH - 1.2, HEIGHT - 1.2), edge="#d0d7de", face="white", radius=2)
    draw_speech(axes)
    draw_teacher(axes)
    draw_student(axes)
    draw_losses(axes)
    figure.savefig(OUT, transparent=True, metadata={"Date": None})
    plt.close(figure)


def draw_speech(axes: Axes) -> None:
    """One utterance, and what the two models hear of it."""
    generator = np.random.default_rng(0)
    time = np.linspace(0, 1, 220)
    envelope = np.sin(np.pi * time) * (0.35 + 0.65 * np.sin(3 * np.pi * time) ** 2)
    speech = envelope * np.sin(2 * np.pi * 38 * time)
    middle = (TEACHER_MIDDLE + STUDENT_MIDDLE) / 2
    wave(axes, speech, (3, middle), color=INK)
    axes.text(8.5, middle - 5.5, "speech", ha="center")
    for height, name, what, noise, color in (
        (TEACHER_MIDDLE, "distortion 1", "WHAM! noise, 18 dB\nreverberation", 0.16, TEACHER),
        (STUDENT_MIDDLE, "distortion 2", "MUSAN noise, 11 dB\npitch shift", 0.32, STUDENT),
    ):
        box(axes, (17, height - 4.5), (17, 9), edge=FAINT)
        label(axes, (25.5, height + 2.3), name, weight="bold")
        label(axes, (25.5, height - 1.5), what, size=8)
        side = np.sign(height - middle)
        arrow(axes, (14.3, middle + 1.2 * side), (22, height - 4.9 * side), curve=0.3 * side)
        arrow(axes, (34, height), (36.4, height))
        wave(axes, speech + noise * generator.standard_normal(len(time)), (37, height), color=color)
        arrow(axes, (48.4, height), (51.8, height))


def draw_teacher(axes: Axes) -> None:
    """Twelve layers, of which three are to be predicted."""
    box(axes, (50, 34), (42, 15), edge=TEACHER, face="#eef4fb")
    label(axes, (71, 46.9), "teacher: HuBERT, frozen, 95 M", color=TEACHER, weight="bold")
    cnn(axes, TEACHER_MIDDLE, TEACHER)
    for layer, x in LAYER_X.items():
        chosen = layer in PREDICTED
        face = TEACHER if chosen else "white"
        box(axes, (x - 0.75, TEACHER_MIDDLE - 3.2), (1.5, 6.4), edge=TEACHER, face=face, radius=0.4)
        if chosen:
            label(axes, (x, TEACHER_MIDDLE + 3.9), str(layer), size=8, color=TEACHER)
            arrow(axes, (x, TEACHER_MIDDLE - 3.3), (x, 29.4), color=TEACHER)


def draw_student(axes: Axes) -> None:
    """The CNN, two layers, and a head for each of the teacher's three layers."""
    box(axes, (50, 3), (42, 17.5), edge=STUDENT, face="#eef8f2")
    label(axes, (64, 4.4), "student, 23.5 M", color=STUDENT, weight="bold")
    cnn(axes, STUDENT_MIDDLE, STUDENT)
    for layer in (1, 2):
        x = LAYER_X[layer]
        box(axes, (x - 0.75, STUDENT_MIDDLE - 3.2), (1.5, 6.4), edge=STUDENT, face=STUDENT, radius=0.4)
    arrow(axes, (LAYER_X[2] + 1, STUDENT_MIDDLE), (70.4, STUDENT_MIDDLE))
    label(axes, (71.4, STUDENT_MIDDLE), "z", size=12, style="italic")
    for layer in PREDICTED:
        x = LAYER_X[layer]
        box(axes, (x - 2.6, 14.6), (5.2, 3.6), edge=STUDENT, face="white", radius=0.6)
        label(axes, (x, 16.4), f"head {layer}", size=7.5)
        arrow(axes, (71.6, STUDENT_MIDDLE + 1.3), (x, 14.4), color=STUDENT)
        arrow(axes, (x, 18.3), (x, 23.2), color=STUDENT)


def draw_losses(axes: Axes) -> None:
    """The distillation loss between the models, and the distortion classifier on z."""
    box(axes, (66, 23.5), (26, 5.7), edge=LOSS, face="#fdf6e7")
    label(axes, (79, 27.2), "distillation loss", weight="bold", color=LOSS)
    label(axes, (79, 25), "L1 and cosine, per layer", size=8)
    box(axes, (96.5, 4.5), (13, 10), edge=CLASSIFIER, face="#fdf0ee")
    label(axes, (103, 11.4), "distortion\nclassifier", weight="bold", color=CLASSIFIER)
    label(axes, (103, 7.2), "which distortions?", size=7.5)
    arrow(axes, (72.6, STUDENT_MIDDLE + 0.5), (96.2, STUDENT_MIDDLE + 0.5), color=CLASSIFIER)
    arrow(axes, (96.2, STUDENT_MIDDLE - 0.8), (72.6, STUDENT_MIDDLE - 0.8), color=CLASSIFIER, dashed=True)
    label(axes, (81.5, 6.9), "gradient, sign reversed", size=7.5, color=CLASSIFIER)


def cnn(axes: Axes, height: float, color: str) -> None:
    """The convolutions that either model begins with."""
    box(axes, (52, height - 3.2), (7, 6.4), edge=color, face="white")
    label(axes, (55.5, height), "CNN", size=8.5)
    arrow(axes, (59.2, height), (62.2, height))


def wave(axes: Axes, samples: np.ndarray, corner: tuple[float, float], *, color: str) -> None:
    """A waveform of 11 units, from the middle of its left side."""
    x, y = corner
    axes.plot(x + np.linspace(0, 11, len(samples)), y + 2.8 * samples, color=color, linewidth=0.7)


def label(axes: Axes, middle: tuple[float, float], text: str, **style: Any) -> None:
    """Text around its middle."""
    axes.text(*middle, text, ha="center", va="center", **style)


def box(
    axes: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    *,
    edge: str,
    face: str = "#f6f8fa",
    radius: float = 1.0,
) -> None:
    """A rounded rectangle from its lower left corner."""
    style = f"round,pad=0,rounding_size={radius}"
    patch = FancyBboxPatch(corner, *size, boxstyle=style, edgecolor=edge, facecolor=face, linewidth=1.1)
    axes.add_patch(patch)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = INK,
    curve: float = 0.0,
    dashed: bool = False,
) -> None:
    """From `start` to `end`; dashed is a gradient."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            color=color,
            linewidth=1.1,
            linestyle=(0, (4, 2.5)) if dashed else "-",
            connectionstyle=f"arc3,rad={curve}",
            shrinkA=0,
            shrinkB=0,
            zorder=3,
        )
    )


if __name__ == "__main__":
    main()
