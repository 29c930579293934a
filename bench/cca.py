"""Seconds of cross-validated CCA of all layers of a model: a straight numpy version and ours.

    python -m bench cca

Both choose a pair of epsilons on the development part of each split, for each layer, with "centred" weights.
The straight version does everything anew for each layer, split and pair: covariances, eigenvectors, singular
vectors. Its time is proportional to their number: it runs one layer and one split with every fifth pair, and
so does ours, whose scores must be the same; then ours runs everything. Seconds are those of the processor, on
one thread, but for a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.analysis.cca import EPSILONS, FoldScore, Split, cross_validate

LAYERS, WIDTH, ROWS, SPLITS = 13, 768, 7000, 3
TARGETS = {"phones, one-hot": 39, "mel, real": 80}
FEWER = 5
"""Of the pairs, the straight version runs one in so many."""


def main(_: Path, rounds: int) -> None:
    """Print seconds and ratios, the median of rounds in which both take turns."""
    torch.set_num_threads(1)
    splits = folds(ROWS, SPLITS)
    fits = LAYERS * SPLITS * len(EPSILONS)
    print(
        f"{LAYERS} layers of {WIDTH}, {ROWS} instances, {SPLITS} splits, {len(EPSILONS)} pairs: {fits} fits"
    )
    for name, width in TARGETS.items():
        layers, y = views(width, labels=name.startswith("phones"))
        report(name, layers, y, splits, rounds)
        if torch.cuda.is_available():
            on_gpu({layer: rows.cuda() for layer, rows in layers.items()}, y, splits, rounds)


def on_gpu(layers: dict[str, Tensor], y: Tensor, splits: Sequence[Split], rounds: int) -> None:
    """Measure ours on a GPU; the scores that it returns are on the CPU."""
    cross_validate(layers, y, splits[:1])
    seconds = [timed(lambda: cross_validate(layers, y, splits), time.perf_counter) for _ in range(rounds)]
    print(f"{'':17} GPU      {statistics.median(seconds):8.2f} s in all, wall time")


def report(name: str, layers: dict[str, Tensor], y: Tensor, splits: Sequence[Split], rounds: int) -> None:
    """Measure one target and print its lines."""
    layer, one, few = next(iter(layers)), splits[:1], EPSILONS[::FEWER]
    x_rows, y_rows = layers[layer].numpy().astype(np.float64), y.numpy().astype(np.float64)
    theirs = straight(x_rows, y_rows, splits[0], few)
    ours = cross_validate({layer: layers[layer]}, y, one, epsilons=few)[layer][0]
    difference = max(abs(theirs.score - ours.score), abs(theirs.dev_score - ours.dev_score))
    peak = peak_mib(lambda: cross_validate(layers, y, splits))
    slow, quick = [], []
    for _ in range(rounds):
        slow.append(timed(lambda: straight(x_rows, y_rows, splits[0], few)) / len(few))
        quick.append(timed(lambda: cross_validate(layers, y, splits)))
    fits = len(layers) * len(splits) * len(EPSILONS)
    ratios = [a * fits / b for a, b in zip(slow, quick, strict=True)]
    fit, total = statistics.median(slow), statistics.median(quick)
    print(f"{name:>17} straight {fit:8.3f} s a fit, {fits * fit:.0f} s in all")
    print(f"{'':17} ours     {total:8.2f} s in all; {peak} MiB besides the layers")
    print(
        f"{'':17} ratio    {statistics.median(ratios):8.1f} ({min(ratios):.1f} to {max(ratios):.1f}); "
        f"scores differ by {difference:.0e}"
    )


def timed(run: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds."""
    started = clock()
    run()
    return clock() - started


def peak_mib(run: Callable[[], object]) -> str:
    """How much more memory a call holds at its peak than before; "?" where Linux does not say."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        run()
        return f"{(_status('VmHWM') - before) / 1024:.0f}"
    except OSError:
        return "?"


def _status(key: str) -> int:
    """KiB of memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def folds(n_rows: int, n_splits: int) -> list[Split]:
    """Ten parts; each split tests on one of its own and chooses on another."""
    parts = np.array_split(np.random.default_rng(0).permutation(n_rows), 10)
    return [
        Split(
            np.concatenate(parts[: 2 * number] + parts[2 * number + 2 :]), *parts[2 * number : 2 * number + 2]
        )
        for number in range(n_splits)
    ]


def views(width: int, *, labels: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Layers (n, D) that know more and more about y (n, K), in float32 as models put them out."""
    rng = np.random.default_rng(0)
    if labels:
        y = np.eye(width, dtype=np.float32)[rng.integers(width, size=ROWS)]
    else:
        y = rng.standard_normal((ROWS, width), dtype=np.float32)
    deviations = np.geomspace(1, 0.01, WIDTH, dtype=np.float32)
    layers = {}
    for number in range(LAYERS):
        known = y @ rng.standard_normal((width, WIDTH), dtype=np.float32) * ((number + 1) / LAYERS)
        rows = (known + rng.standard_normal((ROWS, WIDTH), dtype=np.float32)) * deviations
        layers[str(number)] = torch.from_numpy(rows)
    return layers, torch.from_numpy(y)


def straight(x: np.ndarray, y: np.ndarray, split: Split, pairs: Sequence[tuple[float, float]]) -> FoldScore:
    """What `cross_validate` finds for a layer and a split, step by step."""
    best: tuple[float, np.ndarray, np.ndarray, tuple[float, float]] | None = None
    for pair in pairs:
        u, v = learn(x[split.train], y[split.train], *pair)
        dev = score(x[split.dev], y[split.dev], u, v)
        if best is None or dev > best[0]:
            best = dev, u, v, pair
    assert best is not None
    dev, u, v, pair = best
    return FoldScore(score(x[split.test], y[split.test], u, v), dev, *pair)


def learn(x: np.ndarray, y: np.ndarray, epsilon_x: float, epsilon_y: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions (D, k) and (K, k) of a training part."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x) - 1
    s_x, s_y, s_xy = x.T @ x / n, y.T @ y / n, x.T @ y / n
    scale_x, scale_y = np.abs(s_x).max(), np.abs(s_y).max()
    w_x, kept_x = whitening(s_x / scale_x, epsilon_x)
    w_y, kept_y = whitening(s_y / scale_y, epsilon_y)
    cross = s_xy[np.ix_(kept_x, kept_y)] / np.sqrt(scale_x * scale_y)
    left, _, right = np.linalg.svd(w_x @ cross @ w_y, full_matrices=False)
    u, v = np.zeros((x.shape[1], left.shape[1])), np.zeros((y.shape[1], left.shape[1]))
    u[kept_x], v[kept_y] = w_x @ left, w_y @ right.T
    return u, v


def whitening(covariance: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """(S + epsilon I)^(-1/2) of the features that vary enough, and which those are."""
    kept = np.diag(covariance) >= epsilon
    regularised = covariance[np.ix_(kept, kept)] + epsilon * np.eye(kept.sum())
    values, vectors = np.linalg.eigh(regularised)
    return vectors / np.sqrt(values) @ vectors.T, kept


def score(x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
    """Weighted mean of the correlations of a part; y has fewer dimensions."""
    x, y = x - x.mean(0), y - y.mean(0)
    p, q = x @ u, y @ v
    lengths = np.linalg.norm(p, axis=0) * np.linalg.norm(q, axis=0)
    null = np.linalg.norm(q, axis=0) < 1e-10 * np.linalg.norm(v, axis=0)
    correlations = np.where(null, 0.0, (p * q).sum(0) / np.where(null, 1.0, lengths))
    orthonormal, _ = np.linalg.qr(q)
    weights = np.where(null, 0.0, np.abs(orthonormal.T @ y).sum(1))
    return float(weights @ correlations / weights.sum())
