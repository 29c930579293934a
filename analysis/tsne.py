"""t-SNE of the last layer under six kinds of speech (section 6.1, Fig. 2 of the paper), and its number.

A point for each split of the speech and kind of distortion (`splits`). Where the points of a split coincide,
the distortion does not change the representation; `separation` says in one number how far that is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distill import markdown
from distill.analysis.figures import COLUMN_IN, PAGE_IN, new_figure, save, wrapped
from distill.analysis.models import open_models
from distill.analysis.record import Record, Row
from distill.analysis.separation import FEWEST_SPLITS, Separation, ratio_cells, separation
from distill.analysis.splits import (
    KINDS,
    SPLITS,
    Splits,
    joined,
    load_splits,
    make_splits,
    possible_kinds,
    save_splits,
)
from distill.atomic import write_json
from distill.data.contents import contents_of
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import find_condition
from distill.errors import UserError

KIND = "tsne"
"""Of analysis, in records."""
ALL = "all"
"""In place of a condition: the ratio over all pairs of conditions."""
_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")  # as in Fig. 2
_MARKERS = "o+s^xD"
_PICTURES = (".png", ".pdf", ".svg")


def plot(
    checkpoints: Sequence[str],
    speech: str,
    noises: Mapping[str, Sequence[str]],
    out: Path,
    *,
    seed: int = 0,
    splits: int = SPLITS,
) -> str:
    """Draw Fig. 2 of the paper for any models, and compute what it stands for.

    Args:
        checkpoints: whatever `open_models` reads.
        speech: manifest, TSV or folder of audio.
        noises: by corpus, sources of noise (musan, fsd, dns, rir); kinds without noise are left out.
        out: a folder, to which other models can be added later; or a picture (.png, .pdf, .svg): the PNG, the
            PDF, the points as CSV and the ratios as JSON are written beside each other.
        seed: of distortions, t-SNE and the bootstrap.
        splits: at most.

    Returns:
        Markdown: the ratios, and where the picture is.

    Raises:
        UserError: for an `out` of another kind, or a folder with another analysis.
        DataError: for speech or noise that is missing.
    """
    if splits < 2:
        raise UserError(f"{splits} splits: at least 2 are needed, better {SPLITS}")
    is_picture = _is_picture(out)
    cuts, reader = open_cuts(speech), NoiseReader(noises)
    kinds = possible_kinds(reader)
    corpora = sorted({name for kind in kinds for name in find_condition(kind).corpora})
    settings = {
        "speech": contents_of(sorted(cuts, key=lambda cut: cut.id), in_full=False, missing_ok=True),
        "noises": {name: contents_of(list(reader.corpora[name]), in_full=False) for name in corpora},
        "conditions": kinds,
        "splits": splits,
        "seed": seed,
    }
    record = None if is_picture else Record(out, KIND, settings, ["model", "condition"])
    models = open_models(checkpoints)
    wanted = {row["model"]: row["identity"] for row in record.rows} if record else {}
    wanted |= {model.name: model.identity for model in models}
    earlier = load_splits(out / "means.npz", wanted) if record else None
    new = [model for model in models if earlier is None or model.name not in earlier.means]
    parts = [earlier] if earlier else []
    if new:
        parts.append(make_splits(new, cuts, reader, kinds=kinds, splits=splits, seed=seed))
    found = joined(parts)
    if record is None:
        rows = write_picture(found, out, settings, seed=seed)
    else:
        save_splits(out / "means.npz", found)
        rows = _write_figure(found, out / KIND, seed=seed)
        record.rows = rows  # those of the models in the figure
        record.write()
    return f"{ratios_table(rows)}\n\n{_explained(found)}\n\n{out if is_picture else out / 'tsne.png'}"


def _is_picture(out: Path) -> bool:
    """Whether `out` is a picture, not a folder.

    Raises:
        UserError: if it is neither.
    """
    if out.suffix in _PICTURES and not out.is_dir():
        return True
    if out.suffix and not out.is_dir():
        raise UserError(
            f"{out}: the picture must end in .png, .pdf or .svg; a new folder has no dot in its name"
        )
    return False


def write_picture(splits: Splits, picture: Path, settings: Mapping[str, Any], *, seed: int = 0) -> list[Row]:
    """Draw splits as PNG and PDF, with the points as CSV and the ratios as JSON, all under the same name.

    Args:
        splits: of all models.
        picture: one of them; a `.svg` is written too.
        settings: what else the ratios depend on.
        seed: of t-SNE and the bootstrap.

    Returns:
        The ratios, as in the JSON file.
    """
    stem = picture.with_suffix("")
    rows = _write_figure(splits, stem, seed=seed, also=picture)
    write_json(stem.with_name(f"{stem.name}.json"), {"kind": KIND, "settings": dict(settings), "rows": rows})
    return rows


def _write_figure(splits: Splits, stem: Path, *, seed: int, also: Path | None = None) -> list[Row]:
    """Draw splits and write their points; returns the ratios."""
    found = separations(splits, seed=seed)
    projections = {model: project(kinds, seed=seed) for model, kinds in splits.means.items()}
    titles = {model: str(ratios[ALL]) for model, ratios in found.items()}
    caption = f"{splits}. Below the name: distance within / between splits."
    figure = draw(projections, titles, caption=caption)
    points = [
        {"model": model, "condition": kind, "split": number, "x": float(x), "y": float(y)}
        for model, kinds in projections.items()
        for kind, places in kinds.items()
        for number, (x, y) in enumerate(places)
    ]
    save(figure, stem, points)
    if also is not None and also.suffix == ".svg":
        figure.savefig(also)
    return [
        {
            "model": model,
            "identity": splits.identities[model],
            "condition": condition,
            **asdict(each),
            "splits": splits.number,
            "utterances": len(splits.utterances),
        }
        for model, ratios in found.items()
        for condition, each in ratios.items()
    ]


def ratios_table(rows: Sequence[Row]) -> str:
    """The ratios as Markdown, a row for each model; columns: all conditions, each against clean speech."""
    return markdown.table(*ratio_cells(rows), numbers_from=1)


def _explained(splits: Splits) -> str:
    """What the table shows."""
    enough = splits.number >= FEWEST_SPLITS
    ends = "95 % intervals over splits" if enough else f"no intervals, of fewer than {FEWEST_SPLITS} splits"
    return (
        f"{splits}. Near 0: distortion does not move the representation; 1: as far as other speech; {ends}."
    )


def separations(splits: Splits, *, seed: int = 0) -> dict[str, dict[str, Separation]]:
    """By model, `ALL` conditions and each against clean speech, how far they are apart."""
    return {
        model: {
            ALL: separation(kinds, seed=seed),
            **{
                kind: separation({"clean": kinds["clean"], kind: points}, seed=seed)
                for kind, points in kinds.items()
                if kind != "clean"
            },
        }
        for model, kinds in splits.means.items()
    }


def project(means: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, np.ndarray]:
    """One t-SNE of all kinds together: (splits, 2) by kind.

    Its perplexity is 30, or a third of the number of points if they are fewer than 91.
    """
    from sklearn.manifold import TSNE

    points = np.concatenate(list(means.values()))
    perplexity = min(30.0, max(2.0, (len(points) - 1) / 3))
    if np.ptp(points, axis=0).max() > 0:
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    else:  # all points are the same, for which PCA has no axes
        flat = np.zeros((len(points), 2))
    ends = np.cumsum([len(m) for m in means.values()])[:-1]
    return dict(zip(means, np.split(flat, ends), strict=True))


def draw(
    projections: Mapping[str, Mapping[str, np.ndarray]], titles: Mapping[str, str], *, caption: str = ""
) -> Any:
    """A figure with a panel for each model, and a colour and a marker for each kind of speech.

    Args:
        projections: by model and kind, (splits, 2).
        titles: by model, what stands below its name.
        caption: below the figure.
    """
    from matplotlib.lines import Line2D

    wide = len(projections) > 4
    columns = 4 if wide else min(2, len(projections))
    rows = -(-len(projections) // columns)
    width_in = PAGE_IN if wide else COLUMN_IN
    panel_in = width_in / columns
    figure = new_figure(width_in=width_in, height_in=rows * (min(panel_in, 2.4) + 0.3) + 0.55)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(projections) :]:
        axis.axis("off")
    for axis, (model, kinds) in zip(axes.flat, projections.items(), strict=False):
        for kind, points in kinds.items():
            axis.plot(*points.T, **_look(kind, 2.6 if panel_in < 2 else 3.2))
        name = wrapped(model, 0.9 * panel_in, size=7.5)
        axis.set_title(f"{name}\n{titles[model]}".strip(), fontsize=7.5)
        axis.set(xticks=[], yticks=[])
        axis.set_aspect("equal", "datalim")
        axis.spines[:].set_linewidth(0.5)
    shown = next(iter(projections.values()))
    handles = [Line2D([], [], label=kind, **_look(kind, 4.5)) for kind in shown]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) if wide else 3,
        fontsize=7,
        frameon=False,
        title=wrapped(caption, 0.95 * width_in, size=6.5),
        title_fontsize=6.5,
    )
    return figure


def _look(kind: str, size: float) -> dict[str, Any]:
    """A hollow marker: where points coincide, all of them can be seen."""
    index = KINDS.index(kind)
    return {
        "marker": _MARKERS[index],
        "color": _COLOURS[index],
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgewidth": 0.6,
        "linestyle": "",
    }
