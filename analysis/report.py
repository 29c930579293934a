"""One HTML page about some runs, with everything in it: tables, curves, robustness, t-SNE, sounds.

Nothing is fetched and nothing is executed by the page (its content security policy says so); it follows the
reader's light or dark theme and fits a phone.
"""

from __future__ import annotations

import base64
import datetime
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from distill.analysis.curves import COLOURS, curve_chart, style
from distill.analysis.head_curves import read_heads
from distill.analysis.run_logs import RunLog, read_runs
from distill.downstream.results import read_results
from distill.downstream.table_types import CAPTION, Row, Table, is_measured
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


def make_report(
    runs: Sequence[Path],
    out: Path,
    *,
    speech: str | None = None,
    noises: Mapping[str, Sequence[str]] | None = None,
    tsne: Path | None = None,
    protocol: str | None = None,
    variant: str | None = None,
) -> Path:
    """Write the page; what is left out for want of an option is warned about.

    Args:
        runs: run folders, folders of evaluations or sweeps.
        out: the .html file.
        speech: manifest, TSV or folder; one utterance of it is heard under every distortion.
        noises: by corpus (musan, wham, fsd, dns, rir), sources of noise; what has none is not heard.
        tsne: picture to show besides the `tsne.png` of the run folders.
        protocol: use only results of this one.
        variant: use only results of this variant of the distortions.

    Returns:
        `out`.

    Raises:
        UserError: for a folder without run or results, an `out` or `tsne` of another kind, or if what numbers
            follow must be chosen (`build_tables`).
        DataError: for speech or noise that is missing.
    """
    if out.suffix != ".html":
        raise UserError(f"{out}: the report must end in .html")
    logs = read_runs(runs)
    tables = build_tables(read_results(runs), protocol=protocol, variant=variant)
    tables = [table for table in tables if any(map(is_measured, table.rows))]
    pictures = [path for log in logs if (path := log.folder / "tsne.png").is_file()]
    pictures += [tsne] if tsne else []
    sections = {
        "Runs": overview([log for log in logs if log.kind]),
        "Results": f"<p>{escape(CAPTION)}</p>{''.join(map(results_card, tables))}" if tables else "",
        "Robustness": robustness(tables),
        "Training": training(logs),
        "Heads": heads(runs),
        "t-SNE": "".join(picture(path) for path in pictures),
        "Sounds": sounds(speech, noises or {}) if speech else "",
        "Recipes and versions": "".join(details(log) for log in logs if log.recipe_text or log.versions),
    }
    page = fill_page(", ".join(log.label for log in logs), {k: v for k, v in sections.items() if v})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    if lacking := left_out(speech, noises or {}, pictures):
        logger.warning("%s is without %s", out, "; ".join(lacking))
    return out


def left_out(speech: str | None, noises: Mapping[str, Sequence[str]], pictures: Sequence[Path]) -> list[str]:
    """The parts that a page will not have, and the options that add them."""
    parts = []
    if not speech:
        parts.append("sounds (add --speech SOURCE --noise CORPUS=SOURCE)")
    elif not noises:
        parts.append("the sound of noise (add --noise CORPUS=SOURCE)")
    if not pictures:
        parts.append("t-SNE (add --tsne PICTURE, made by `distill tsne`)")
    return parts


def fill_page(names: str, sections: Mapping[str, str]) -> str:
    """The template with its sections; titles are plain text, sections HTML."""
    ids = {title: re.sub(r"\W+", "-", title.lower()) for title in sections}
    template = (
        resources.files("distill.analysis").joinpath("report_template.html").read_text(encoding="utf-8")
    )
    return Template(template).substitute(
        title="Distillation report",
        subtitle=f"{escape(names)} · {datetime.date.today().isoformat()}",
        links="".join(f'<a href="#{ids[title]}">{escape(title)}</a>' for title in sections),
        sections="\n".join(
            f'<section><h2 id="{ids[title]}">{escape(title)}</h2>{body}</section>'
            for title, body in sections.items()
        ),
        footer="Made by <code>distill report</code>.",
    )


def table_html(head: str, rows: Iterable[str], label: str) -> str:
    """A table of ready rows that scrolls inside its own box."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>'
        f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


# ------------------------------------------------------------------------------------------------- runs


def overview(logs: Sequence[RunLog]) -> str:
    """One line per run."""
    if not logs:
        return ""
    lines = [run_facts(log) for log in logs]
    head = "".join(f"<th{_align(name)}>{name}</th>" for name in ("run", *lines[0]))
    rows = []
    for log, facts in zip(logs, lines, strict=True):
        texts = "".join(f"<td{_align(name)}>{escape(text)}</td>" for name, text in facts.items())
        rows.append(f"<tr><th>{escape(log.label)}</th>{texts}</tr>")
    return f'<div class="card">{table_html(f"<tr>{head}</tr>", rows, "Runs")}</div>'


def run_facts(log: RunLog) -> dict[str, str]:
    """A run in short; empty what is not known."""
    recipe = log.recipe
    student, dat = (part if isinstance(part := recipe.get(key), dict) else {} for key in ("student", "dat"))
    best, clean = log.best("val/loss"), log.best("val/loss_clean")
    updates = max((int(steps[-1]) for steps, _ in log.curves.values()), default=0)
    return {
        "what": str(recipe.get("description") or recipe.get("name", "")),
        "hears": str(recipe.get("cdm", "")),
        "DAT": ("yes" if dat.get("enabled") else "no") if dat else "",
        "finished": "yes" if log.finished else "no",
        "layers": str(student.get("layers", "")),
        "updates": f"{updates:,}" if updates else "",
        "best validation loss": f"{best[0]:.4f} at {best[1]:,}" if best else "",
        "clean": f"{clean[0]:.4f}" if clean else "",
    }


def _align(column: str) -> str:
    return ' class="number"' if column in ("layers", "updates", "best validation loss", "clean") else ""


def details(log: RunLog) -> str:
    """Resolved recipe and versions, folded."""
    versions = ", ".join(f"{name} {version}" for name, version in log.versions.items())
    return (
        f'<details class="card"><summary>{escape(log.label)}</summary><p class="soft">{escape(versions)}</p>'
        f'<div class="scroll" tabindex="0"><pre>{escape(log.recipe_text)}</pre></div></details>'
    )


# ---------------------------------------------------------------------------------------------- results


def results_card(table: Table) -> str:
    """One task: the rows that were measured, and folded the whole table."""
    measured = [row for row in table.rows if is_measured(row)]
    folded = ""
    if len(measured) < len(table.rows):
        everything = results_table(table, table.rows)
        folded = f"<details><summary>All rows of the paper</summary>{everything}</details>"
    notes = "".join(f"<li>{escape(note)}.</li>" for note in table.notes)
    return (
        f'<div class="card"><h3>{escape(table.title)}</h3>'
        f'<div class="brief">{results_table(table, measured)}</div>'
        f'<ul class="notes">{notes}</ul>{folded}</div>'
    )


def results_table(table: Table, rows: Sequence[Row]) -> str:
    """Some rows of a table, ours beside the paper's."""
    kinds = ("ours", "paper") if table.published else ("ours",)
    head = '<th rowspan="2"></th>'
    head += "".join(f'<th class="about" rowspan="2">{name}</th>' for name in ("model", "da.", "para."))
    for condition in table.conditions:
        head += f'<th class="group" colspan="{len(kinds)}">{escape(condition)}</th>'
    under = "".join(f'<th class="number {kind}">{kind}</th>' for _ in table.conditions for kind in kinds)
    lines = []
    for row in rows:
        about = (row.model, row.adapted, row.parameters)
        texts = "".join(f'<td class="about">{escape(text)}</td>' for text in about)
        for cell in row.cells:
            mean, _, rest = cell.ours().partition(" ")
            spread = f"<small>{escape(rest)}</small>" if rest else ""
            texts += f'<td class="number">{mean}{spread}</td>'
            texts += f'<td class="number paper">{escape(cell.paper)}</td>' if table.published else ""
        kind = ' class="measured"' if is_measured(row) else ""
        lines.append(f"<tr{kind}><th>{escape(row.label)}</th>{texts}</tr>")
    return table_html(f"<tr>{head}</tr><tr>{under}</tr>", lines, table.title)


def robustness(tables: Sequence[Table]) -> str:
    """Bars of every condition, a card per task."""
    cards = "".join(f'<div class="card">{bars(table)}</div>' for table in tables)
    used = dict.fromkeys(condition for table in tables for condition in table.conditions)
    if not cards:
        return ""
    keys = [(_swatch(condition_colour(condition)), condition) for condition in used]
    tick = _swatch("currentColor", x=6, width=2)
    return legend([*keys, (tick, "the paper's number")]) + f'<div class="grid">{cards}</div>'


def bars(table: Table) -> str:
    """Horizontal bars from 0, a group per measured row; an error rate may exceed 100 %."""
    highest = max(cell.mean or 0.0 for row in table.rows for cell in row.cells)
    top = 100.0 if table.metric in ("accuracy", "f1") else max(10.0, np.ceil(highest / 10) * 10)
    parts = [f"<h3>{escape(table.title)}</h3>", '<div class="bars">']
    for row in filter(is_measured, table.rows):
        parts.append(f"<h4>{escape(row.label)}</h4>")
        for condition, cell in zip(table.conditions, row.cells, strict=True):
            if cell.mean is None:
                continue
            paper = float(cell.paper) if cell.paper else None
            mark = ""
            if paper is not None and paper <= top:
                mark = f'<div class="mark" style="left:calc({100 * paper / top:.2f}% - 1px)"></div>'
            width, colour = 100 * min(max(cell.mean, 0.0), top) / top, condition_colour(condition)
            fill = f'<div class="fill" style="width:{width:.2f}%;background:{colour}"></div>'
            beside = f" <small>paper {escape(cell.paper)}</small>" if cell.paper else ""
            parts.append(
                f'<span>{escape(condition)}</span><div class="track">{fill}{mark}</div>'
                f'<span class="value">{cell.mean:.1f}{beside}</span>'
            )
    parts.append(
        f'<div class="axis"><span>0</span><span>{top / 2:g}</span><span>{top:g} %</span></div></div>'
    )
    return "".join(parts)


def condition_colour(condition: str) -> str:
    """The colour of a condition, grey for those the paper does not have."""
    return CONDITION_COLOURS.get(condition, "#8a8a8a")


def _swatch(colour: str, *, x: int = 0, width: int = 14) -> str:
    rectangle = f'<rect x="{x}" width="{width}" height="14" rx="1" fill="{colour}"/>'
    return f'<svg width="14" height="14" aria-hidden="true">{rectangle}</svg>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Samples (SVG) and what they mean (plain text)."""
    return '<ul class="legend">' + "".join(f"<li>{s}{escape(text)}</li>" for s, text in entries) + "</ul>"


# ---------------------------------------------------------------------------------------------- curves


def training(logs: Sequence[RunLog]) -> str:
    """Charts of what was logged, runs of the same kind together."""
    parts = []
    kinds = list(dict.fromkeys(log.kind for log in logs if log.curves))
    for kind in kinds:
        members = [log for log in logs if log.kind == kind and log.curves]
        styles = {log.label: style(index) for index, log in enumerate(members)}
        charts = []
        for metric, (title, unit) in CURVES.items():
            curves = {log.label: log.curves[metric] for log in members if metric in log.curves}
            if curves:
                chart = curve_chart(title, unit, curves, styles, prefix=f"{kind}-{metric}")
                charts.append(f'<figure class="card">{chart}</figure>')
        parts.append(f"<h3>{escape(KINDS.get(kind, kind))}</h3>" if len(kinds) > 1 else "")
        parts.append(legend((_line(*styles[log.label]), log.label) for log in members))
        parts.append(f'<div class="grid">{"".join(charts)}</div>')
    return "".join(parts)


def heads(folders: Sequence[Path]) -> str:
    """Charts of the training of heads, a pair per task."""
    tasks = read_heads(folders)
    labels = sorted({label for metrics in tasks.values() for curves in metrics.values() for label in curves})
    styles = {label: style(index) for index, label in enumerate(labels)}
    charts = []
    for task, metrics in tasks.items():
        name = TASKS[task].title if task in TASKS else task
        for metric, (title, unit) in HEAD_CURVES.items():
            if curves := metrics.get(metric):
                chart = curve_chart(f"{name}: {title}", unit, curves, styles, prefix=f"head-{task}-{metric}")
                charts.append(f'<figure class="card">{chart}</figure>')
    if not charts:
        return ""
    keys = legend((_line(*styles[label]), label) for label in labels)
    note = "<p>Means over seeds and folds, at the updates that all of them have.</p>"
    return f'{note}{keys}<div class="grid">{"".join(charts)}</div>'


def _line(colour: str, dashes: str) -> str:
    return (
        '<svg width="26" height="10" aria-hidden="true"><line x2="26" y1="5" y2="5" stroke-width="2.5" '
        f'stroke="{colour}" stroke-dasharray="{dashes or "none"}"/></svg>'
    )


# ------------------------------------------------------------------------------------ pictures and sounds


def data_uri(kind: str, content: bytes) -> str:
    """Content as part of the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(path: Path) -> str:
    """A t-SNE picture.

    Raises:
        UserError: if it is missing, or of a kind that browsers do not show.
    """
    kinds = {".png": "image/png", ".svg": "image/svg+xml"}
    if path.suffix not in kinds or not path.is_file():
        raise UserError(f"{path}: expected a .png or .svg, as `distill tsne --out tsne.png` makes")
    uri = data_uri(kinds[path.suffix], path.read_bytes())
    name = escape(f"{path.resolve().parent.name}/{path.name}")
    return (
        '<figure class="card"><div class="scroll" tabindex="0">'
        f'<img class="picture" src="{uri}" alt="t-SNE of representations, {name}"></div>'
        f"<figcaption>{name}: last layer; each point is the average over a part of the speech in one "
        "condition. Where the colours mix, the distortion does not move the representation."
        "</figcaption></figure>"
    )


def sounds(speech: str, noises: Mapping[str, Sequence[str]]) -> str:
    """One utterance under every distortion that there is noise for."""
    from distill.analysis.listening import samples_of_distortions

    name, samples = samples_of_distortions(speech, noises)
    cards = [
        f'<div class="card"><h3>{escape(sample.title)}</h3><p class="soft">{escape(sample.caption)}</p>'
        f'<img class="spectrogram" alt="log-mel spectrogram" '
        f'src="{data_uri("image/png", sample.spectrogram)}">'
        f'<audio controls preload="metadata" src="{data_uri("audio/flac", sample.flac)}"></audio></div>'
        for sample in samples
    ]
    intro = (
        f"<p>{escape(name)}, at most three seconds of it. Spectrograms: 64 mel bands up to 8 kHz, in dB.</p>"
    )
    return f'{intro}<div class="grid">{"".join(cards)}</div>'
