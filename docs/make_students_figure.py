"""Draw docs/img/students.png: errors in unseen noise against the real-time factor, a point for each arm.

    python docs/make_students_figure.py EVALUATIONS students.json docs/img/students.png

EVALUATIONS is what recipes/launch/real_mini_students.sh leaves, students.json of `python -m bench students`.
Errors are of small models on real_mini, real-time factors of int8 exports of the base size.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = {"keywords": "six wake words", "digits": "ten digits, unknown speakers"}
COSTS = {
    "slim": "slim",
    "mel": "mel",
    "mel-input": "mel",
    "mel-corr": "mel",
    "robust_mel": "mel",
    "robust_mel-32": "mel",
    "robust_mel-no-input": "mel",
    "robust_mel-no-corr": "mel",
    "robust_mel_prime": "mel",
    "thin": "cnn, 12 thin layers",
    "thin-sparse": "cnn, 12 thin layers",
}
"""By arm, the student of the benchmark whose cost is its; all others cost what "cnn" does."""


def errors(folder: Path, condition: str) -> dict[str, list[float]]:
    """By arm, the error in per cent of each seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.glob(f"*-seed*/results/*-{condition}.json")):
        arm = path.parents[1].name.rpartition("-seed")[0]
        found[arm].append(100.0 - json.loads(path.read_text(encoding="utf-8"))["value"])
    return dict(found)


def apart(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved until each is at least `gap` above the one before, as little as it takes."""
    moved = list(heights)
    for _ in range(1000):
        for below in range(len(moved) - 1):
            if (short := gap - (moved[below + 1] - moved[below])) > 0:
                moved[below] -= short / 2
                moved[below + 1] += short / 2
    return moved


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("evaluations", type=Path)
    parser.add_argument("costs", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    students = json.loads(options.costs.read_text(encoding="utf-8"))["students"]
    rtf = {name: statistics.median(found["rtf"]["int8"]) for name, found in students.items()}
    figure, axes = plt.subplots(1, len(TASKS), figsize=(10, 4.6), layout="constrained")
    for axis, (task, title) in zip(axes, TASKS.items(), strict=True):
        places: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for arm, values in errors(options.evaluations / task, "fsd").items():
            if arm == "teacher":
                continue
            cost = COSTS.get(arm, "cnn")
            x, y = rtf[cost], statistics.mean(values)
            axis.errorbar(
                x, y, [[y - min(values)], [max(values) - y]], fmt="o", ms=4, lw=0.8, color="#0072B2"
            )
            places[cost].append((y, arm))
        low, high = axis.get_ylim()
        for cost, found in places.items():
            left = cost == "cnn"  # the thin ones are to the right of it
            heights = apart([y for y, _ in sorted(found)], (high - low) / 28)
            for (y, arm), height in zip(sorted(found), heights, strict=True):
                axis.annotate(
                    arm,
                    (rtf[cost], y),
                    (rtf[cost] * (0.9 if left else 1.08), height),
                    fontsize=7,
                    va="center",
                    ha="right" if left else "left",
                    weight="bold" if arm in ("s4", "robust", "robust_mel") else "normal",
                    arrowprops={"arrowstyle": "-", "lw": 0.3, "color": "#7F7F7F"},
                )
        axis.set_xscale("log")
        axis.set_xlim(min(rtf.values()) / 1.5, max(rtf.values()) * 2.2)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("real-time factor, int8, one thread")
        axis.set_ylabel("error in unseen noise (%)")
        axis.grid(alpha=0.3)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()
