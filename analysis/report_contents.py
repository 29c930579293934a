"""What a report shows, collected from run folders: a section of the page for each field of `Contents`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.analysis.curves import COLOURS, curve_chart, style
from distill.analysis.head_curves import read_heads
from distill.analysis.listening import Sample, samples_of_distortions
from distill.analysis.report_analyses import MOST_BYTES, Analysis, read_analyses
from distill.analysis.run_logs import RunLog, read_runs
from distill.analysis.separation import ratio_cells
from distill.atomic import read_bytes, read_json
from distill.downstream.results import read_results
from distill.downstream.table_types import Table, is_measured
from distill.downstream.tables import build_tables
from distill.downstream.tasks import TASKS
from distill.errors import UserError

logger = logging.getLogger(__name__)

CONDITION_COLOURS: dict[str, str] = {
    "clean": COLOURS[0],
    "2-dist": COLOURS[1],
    "fsd": COLOURS[2],
    "dns": COLOURS[3],
    "chime3": COLOURS[4],
    "test-other": COLOURS[5],
}
OTHER_CONDITION = "#8a8a8a"
KINDS = {"distil": "Students", "adapt": "Teachers"}
CURVES = {
    "train/loss": ("Training loss", "loss"),
    "val/loss": ("Validation loss, distorted as in training", "loss"),
    "val/loss_clean": ("Validation loss, clean speech", "loss"),
    "train/masked_accuracy": ("Training accuracy, masked frames", "share of frames"),
    "val/masked_accuracy": ("Validation accuracy, masked frames", "share of frames"),
    "dat/accuracy": ("Distortion classifier's accuracy", "share of labels"),
    "gradient_norm": ("Norm of the gradient", "norm"),
    "lr": ("Learning rate", "rate"),
}
HEAD_CURVES = {
    "train/loss": ("training loss", "loss"),
    "val/error": ("errors on dev", "%"),
}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run in short, as text; what is not known is empty."""

    label: str
    what: str
    """The recipe's description, else its name."""
    cdm: str
    dat: str
    finished: str
    layers: str
    updates: str
    best: str
    """Lowest validation loss, and the update it was measured after."""
    best_clean: str
    """Lowest validation loss on clean speech."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A measured score, with the paper's."""

    condition: str
    colour: str
    value: float
    width: float
    """In per cent of the axis."""
    paper: str
    """The paper's number as printed; empty if it has none."""
    paper_at: float | None
    """Where that is, in per cent of the axis; None if it has none or is beyond the end."""


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """The measured scores of a task."""

    title: str
    top: float
    """The end of the axis, which begins at 0."""
    rows: Mapping[str, Sequence[Bar]]
    """By label of the table's row."""


@dataclass(frozen=True, kw_only=True)
class CurveCharts:
    """Charts that share their runs."""

    title: str
    """Empty if these are the section's only ones."""
    styles: Mapping[str, tuple[str, str]]
    """By run, colour and dashes."""
    charts: Sequence[str]
    """SVG."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of t-SNE."""

    name: str
    media_type: str
    content: bytes
    header: Sequence[str] = ()
    ratios: Sequence[Sequence[str]] = ()
    """The numbers that it stands for, as cells of a table; empty if they are not known."""


@dataclass(frozen=True)
class Sounds:
    """An utterance under several distortions."""

    utterance: str
    samples: Sequence[Sample]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All of a report; a section without contents is left out of the page."""

    labels: Sequence[str]
    """Of all folders."""
    runs: Sequence[RunFacts] = ()
    tables: Sequence[Table] = ()
    """Those with a measured row."""
    training: Sequence[CurveCharts] = ()
    heads: CurveCharts | None = None
    pictures: Sequence[Picture] = ()
    analyses: Sequence[Analysis] = ()
    sounds: Sounds | None = None
    recipes: Sequence[RunLog] = ()
    """Runs whose recipe or versions are known."""

    @property
    def bars(self) -> list[BarChart]:
        """The tables' measured scores."""
        return [bar_chart(table) for table in self.tables]

    @property
    def condition_colours(self) -> dict[str, str]:
        """Of all conditions in the tables."""
        return {c: condition_colour(c) for table in self.tables for c in table.conditions}


def collect(
    folders: Sequence[Path],
    *,
    speech: str | None = None,
    noises: Mapping[str, Sequence[str]] | None = None,
    tsne: Path | None = None,
    protocol: str | None = None,
    variant: str | None = None,
) -> Contents:
    """Read everything that a report shows; arguments and errors are those of `make_report`."""
    logs = read_runs(folders)
    tables = build_tables(read_results(folders), protocol=protocol, variant=variant)
    analyses = read_analyses(folders)
    pictures = [
        path
        for log in logs
        if (path := log.folder / "tsne.png").is_file() and log.folder.resolve() not in analyses
    ]
    return Contents(
        labels=[log.label for log in logs],
        runs=[run_facts(log) for log in logs if log.kind],
        tables=[table for table in tables if any(map(is_measured, table.rows))],
        training=training_charts(logs),
        heads=head_charts(folders),
        pictures=[read_picture(path) for path in (*pictures, *([tsne] if tsne else []))],
        analyses=list(analyses.values()),
        sounds=Sounds(*samples_of_distortions(speech, noises or {})) if speech else None,
        recipes=[log for log in logs if log.recipe_text or log.versions],
    )


def run_facts(log: RunLog) -> RunFacts:
    """What the overview says of a run."""
    best, best_clean = log.best("val/loss"), log.best("val/loss_clean")
    updates = max((int(steps[-1]) for steps, _ in log.curves.values()), default=0)
    dat = log.stated("enabled", "dat")
    return RunFacts(
        label=log.label,
        what=log.stated("description") or log.stated("name"),
        cdm=log.stated("cdm"),
        dat=("yes" if dat.lower() == "true" else "no") if dat else "",
        finished="yes" if log.finished else "no",
        layers=log.stated("layers", "student"),
        updates=f"{updates:,}" if updates else "",
        best=f"{best[0]:.4f} at {best[1]:,}" if best else "",
        best_clean=f"{best_clean[0]:.4f}" if best_clean else "",
    )


def bar_chart(table: Table) -> BarChart:
    """The measured rows of a table.

    The axis ends at 100 %; of error rates, which may exceed that, at the next ten above the highest.
    """
    highest = max(cell.mean or 0.0 for row in table.rows for cell in row.cells)
    top = 100.0 if table.metric in ("accuracy", "f1") else max(10.0, float(np.ceil(highest / 10) * 10))
    rows = {
        row.label: [
            _bar(condition, cell.mean, cell.paper, top)
            for condition, cell in zip(table.conditions, row.cells, strict=True)
            if cell.mean is not None
        ]
        for row in filter(is_measured, table.rows)
    }
    return BarChart(title=table.title, top=top, rows=rows)


def _bar(condition: str, value: float, paper: str, top: float) -> Bar:
    published = float(paper) if paper else None
    return Bar(
        condition=condition,
        colour=condition_colour(condition),
        value=value,
        width=100 * min(max(value, 0.0), top) / top,
        paper=paper,
        paper_at=None if published is None or published > top else 100 * published / top,
    )


def condition_colour(condition: str) -> str:
    """The colour of a condition, also at one SNR (fsd@0); grey for those that the paper does not have."""
    return CONDITION_COLOURS.get(condition.partition("@")[0], OTHER_CONDITION)


def training_charts(logs: Sequence[RunLog]) -> list[CurveCharts]:
    """What was logged in training, runs of the same kind together."""
    logs = [log for log in logs if log.curves]
    kinds = list(dict.fromkeys(log.kind for log in logs))
    groups = []
    for kind in kinds:
        members = [log for log in logs if log.kind == kind]
        styles = {log.label: style(index) for index, log in enumerate(members)}
        charts = []
        for metric, (title, unit) in CURVES.items():
            curves = {log.label: log.curves[metric] for log in members if metric in log.curves}
            if curves:
                charts.append(curve_chart(title, unit, curves, styles, prefix=f"{kind}-{metric}"))
        title = KINDS.get(kind, kind) if len(kinds) > 1 else ""
        groups.append(CurveCharts(title=title, styles=styles, charts=charts))
    return groups


def head_charts(folders: Sequence[Path]) -> CurveCharts | None:
    """The training of heads, two charts for each task; None without heads."""
    tasks = read_heads(folders)
    labels = sorted({label for metrics in tasks.values() for curves in metrics.values() for label in curves})
    styles = {label: style(index) for index, label in enumerate(labels)}
    charts = []
    for task, metrics in tasks.items():
        name = TASKS[task].title if task in TASKS else task
        for metric, (title, unit) in HEAD_CURVES.items():
            if curves := metrics.get(metric):
                prefix = f"head-{task}-{metric}"
                charts.append(curve_chart(f"{name}: {title}", unit, curves, styles, prefix=prefix))
    return CurveCharts(title="", styles=styles, charts=charts) if charts else None


def read_picture(path: Path) -> Picture:
    """A picture of t-SNE.

    Raises:
        UserError: if it is missing, or of a kind that browsers do not show.
    """
    media_type = {".png": "image/png", ".svg": "image/svg+xml"}.get(path.suffix)
    if media_type is None or not path.is_file():
        raise UserError(f"{path}: expected a .png or .svg, as `distill tsne --out tsne.png` makes")
    content = read_bytes(path, MOST_BYTES)
    name = f"{path.resolve().parent.name}/{path.name}"
    header, ratios = _read_ratios(path.with_suffix(".json"))
    return Picture(name=name, media_type=media_type, content=content, header=header, ratios=ratios)


def _read_ratios(path: Path) -> tuple[list[str], list[list[str]]]:
    """What `distill tsne` wrote beside a picture, as header and rows; a warning says if it is damaged."""
    if not path.is_file():
        return [], []
    try:
        return ratio_cells(read_json(path)["rows"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is left out: it does not hold the ratios of t-SNE (%s)", path, error)
        return [], []
