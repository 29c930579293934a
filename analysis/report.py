"""One HTML page about some runs, with everything in it: tables, curves, robustness, analyses, sounds.

The page fetches nothing and executes nothing (its content security policy says so); it follows the reader's
light or dark theme and fits a phone. `report_contents` collects what it shows, `templates/` say how.
"""

from __future__ import annotations

import base64
import datetime
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from distill.analysis.report_contents import Contents, collect
from distill.atomic import write_text
from distill.downstream.table_types import CAPTION, is_measured
from distill.errors import UserError

logger = logging.getLogger(__name__)

_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters, halves of characters, and what is none."""


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
    """Write the page; a warning names the parts that it lacks and the options that add them.

    Args:
        runs: run folders, folders of evaluations, sweeps or analyses.
        out: the .html file.
        speech: manifest, TSV or folder; one of its utterances is played under every distortion.
        noises: by corpus (musan, wham, fsd, dns, rir), sources of noise; without them, distortions that need
            noise are not played.
        tsne: picture to show besides the `tsne.png` of the run folders.
        protocol: use only results of this one.
        variant: use only results of this variant of the distortions.

    Returns:
        `out`.

    Raises:
        UserError: for a folder without run or results, an `out` or `tsne` of another kind, or if `protocol`
            or `variant` must be chosen (`build_tables`).
        DataError: for speech or noise that is missing.
    """
    if out.suffix != ".html":
        raise UserError(f"{out}: the report must end in .html")
    contents = collect(runs, speech=speech, noises=noises, tsne=tsne, protocol=protocol, variant=variant)
    write_text(out, render(contents))
    missing = []
    if not speech:
        missing.append("sounds (add --speech SOURCE --noise CORPUS=SOURCE)")
    elif not noises:
        missing.append("the sound of noise (add --noise CORPUS=SOURCE)")
    if not contents.pictures and not any(analysis.kind == "tsne" for analysis in contents.analyses):
        missing.append("t-SNE (add --tsne PICTURE, made by `distill tsne`)")
    if missing:
        logger.warning("%s is without %s", out, "; ".join(missing))
    return out


def render(contents: Contents) -> str:
    """The page as HTML. Names in it are plain text: the templates escape them."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("distill.analysis"),
        autoescape=True,
        finalize=printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.tests["measured"] = is_measured
    environment.globals |= {"caption": CAPTION, "today": datetime.date.today().isoformat()}
    return environment.get_template("page.html").render(contents=contents)


def printable(value: Any) -> Any:
    """What a template prints, without the characters that a page cannot hold; templates escape the rest."""
    return _NO_TEXT.sub("\ufffd", value) if type(value) is str else value


def data_uri(content: bytes, media_type: str) -> str:
    """An address that holds what it leads to."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
