"""What perturbed waveforms did to recognition: a figure for each perturbation, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill import markdown
from distill.analysis import figures
from distill.analysis.probes.adversarial import ATTACKS
from distill.analysis.probes.perturbations import SIMPLE, Background, Clean
from distill.analysis.record import Row

METRICS = {
    "wer": "word error rate",
    "cer": "character error rate",
    "per": "phoneme error rate",
    "error": "error",
}
"""What metrics are called."""
_LABELS = {kind.name: kind.label for kind in (*SIMPLE.values(), *ATTACKS.values())}
_TITLES = {
    Clean.name: "clean speech",
    "white_noise": "white noise",
    "speed": "speed",
    "chunk_length": "dropped chunks, by length",
    "chunk_count": "dropped chunks, by number",
    "fgsm": "adversarial noise (FGSM)",
    "pgd": "adversarial noise (PGD)",
}


def title_of(perturbation: str) -> str:
    """What a perturbation is called in titles."""
    kind = perturbation.removeprefix("background_")
    return _TITLES.get(perturbation, f"background noise ({kind})")


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each perturbation, with error rates, their intervals and times."""
    parts = []
    for name, own in _by_perturbation(rows):
        metrics = [metric for metric in METRICS if any(metric in row for row in own)]
        columns = ["value", "SNR (dB)", "model", *(f"{metric.upper()} (%)" for metric in metrics)]
        against = next((row["against"] for row in own if "against" in row), "")
        order = sorted(own, key=lambda row: row["value"], reverse=_is_snr(own))  # models as they came
        cells = [
            [
                f"{row['value']:g}" if row["unit"] else "",
                "" if row["snr_db"] is None else f"{row['snr_db']:.1f}",
                row["model"],
                *(_with_interval(row, metric) for metric in metrics),
                *([_with_interval(row, "difference", sign="+")] if against else []),
                *(_milliseconds(row, average) for average in ("median", "mean")),
            ]
            for row in order
        ]
        about = ", ".join(filter(None, [own[0]["unit"], own[0]["what"]]))
        heading = f"{title_of(name)}{f' ({about})' if about else ''}, {own[0]['utterances']} utterances"
        columns += [f"{own[0]['metric'].upper()} minus {against}'s"] if against else []
        text = markdown.table([*columns, "median ms", "mean ms"], cells, numbers_from=3)
        parts.append(f"{markdown.escape(heading)}\n\n{text}")
    machines = ", ".join(dict.fromkeys(row["machine"] for row in rows))
    parts.append(
        "In brackets: 95 % intervals over utterances, of differences over the same ones. Times: forward pass "
        f"and greedy decoding of one utterance at a time on {machines}."
        + (" ~: the machine did other work, too." if any(row["busy"] for row in rows) else "")
    )
    return "\n\n".join(parts)


def draw(rows: Sequence[Row], out: Path) -> list[Path]:
    """A figure for each perturbation of a record: error rate with its interval above, time below.

    Returns:
        The files: `NAME.png`, `NAME.pdf`, `NAME.csv` in `out`.
    """
    written = []
    metric = rows[0]["metric"]
    ends = {"low": f"{metric}_low", "high": f"{metric}_high"}
    rows = figures.seeds_as_one(rows, ["perturbation", "value"], metric, **ends)
    models = list(dict.fromkeys(row["model"] for row in rows))  # the same look in all figures
    clean = [row for row in rows if row["perturbation"] == Clean.name]
    for name, own in _by_perturbation(rows):
        if name != Clean.name and len({row["value"] for row in own}) > 1:
            written += _draw_one(name, own, clean if _is_snr(own) else [], models, out)
    return written


def _draw_one(
    name: str, rows: Sequence[Row], clean: Sequence[Row], models: Sequence[str], out: Path
) -> list[Path]:
    metric = rows[0]["metric"]
    place = _clean_place(rows)
    figure = figures.new_figure(height_in=3.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    lines: dict[str, Any] = {}
    bands: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for model in models:
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: row["value"])
        own += [row for row in clean if row["model"] == model]
        x = [place if row["perturbation"] == Clean.name else row["value"] for row in own]
        lines[model] = (x, [row[metric] for row in own])
        bands[model] = ([row[f"{metric}_low"] for row in own], [row[f"{metric}_high"] for row in own])
        times[model] = (x, [_or_nan(row["time_median_s"], 1000) for row in own])
    count = rows[0]["utterances"]
    seeds = "; seeds: lowest to highest" if any("models" in row for row in rows) else ""
    title = f"{title_of(name)}\n{count} utterances, 95 % intervals{seeds}"
    figures.draw_lines(above, lines, bands=bands, xlabel="", ylabel=f"{METRICS[metric]} (%)", title=title)
    label = _LABELS.get(name, Background.label)
    busy = ", busy machine" if any(row["busy"] for row in rows) else ""
    figures.draw_lines(below, times, xlabel=label, ylabel=f"median time (ms){busy}")
    above.set_ylim(bottom=0)
    below.set_ylim(bottom=0)
    if _is_snr(rows):
        _mark_clean(below, sorted({row["value"] for row in rows}), place if clean else None)
    figures.add_legend(figure, above)
    return figures.save(figure, out / name, [*rows, *clean])


def _mark_clean(axis: Any, values: Sequence[float], place: float | None) -> None:
    """Ticks at the SNRs, from good to bad, and "clean" before the first."""
    ticks = [*values, *([] if place is None else [place])]
    labels = [f"{value:g}" for value in values] + ([] if place is None else ["clean"])
    axis.set_xticks(ticks, labels)
    axis.invert_xaxis()


def _clean_place(rows: Sequence[Row]) -> float:
    """Where clean speech goes: a step above the highest SNR."""
    values = sorted({row["value"] for row in rows})
    return values[-1] + (values[-1] - values[-2] if len(values) > 1 else 1.0)


def _by_perturbation(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for name in dict.fromkeys(row["perturbation"] for row in rows):
        yield name, [row for row in rows if row["perturbation"] == name]


def _is_snr(rows: Sequence[Row]) -> bool:
    return rows[0]["unit"] == Background.unit


def _with_interval(row: Row, name: str, sign: str = "") -> str:
    if name not in row:
        return ""
    value, low, high = (f"{row[f'{name}{end}']:{sign}.1f}" for end in ("", "_low", "_high"))
    return f"{value} [{low}, {high}]"


def _milliseconds(row: Row, average: str) -> str:
    seconds = row[f"time_{average}_s"]
    return "" if seconds is None else f"{'~' * row['busy']}{1000 * seconds:.1f}"


def _or_nan(value: float | None, factor: float) -> float:
    return float("nan") if value is None else factor * value
