"""Readers of what evaluations, analyses and aligners write, through the tables and pages that show it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.analysis.cca.ctm import read_ctm
from distill.analysis.cca.textgrid import read_textgrid
from distill.analysis.report_contents import collect
from distill.analysis.run_logs import read_curves
from distill.downstream.bootstrap import error_rate, read_outcomes
from distill.downstream.card_scores import make_card_scores
from distill.downstream.finetuning.table_formats import to_latex as to_grid
from distill.downstream.finetuning.tables import build_spiral_tables
from distill.downstream.head_record import read_head
from distill.downstream.results import FINETUNED, read_results
from distill.downstream.table_formats import to_csv, to_latex, to_markdown
from distill.downstream.tables import build_tables
from tests.downstream.made_results import values
from tests.fuzz.target import Target, read_json, write_json

SETTINGS = {
    "lr": 1e-4,
    "batch_size": 32,
    "every_n_steps": 100,
    "width": None,
    "crop_s": 3.0,
    "sources": {"train": "a.tsv"},
    "noises": {"fsd": ["b"]},
    "label": "word",
    "test set": "0f",
    "noise": {"fsd": [3, 60]},
}
"""Of a head's score."""
PRETRAINING = {
    "name": "spiral_base",
    "kind": "spiral",
    "train": [f"librispeech/train-{part}" for part in ("clean-100", "clean-360", "other-500")],
    "steps": 200_000,
    "mct": False,
    "noises": {},
    "start": None,
    "ema": {"base": 0.995, "masking": None},
    "heads": {"dim": 256},
    "shift": 16,
    "masking": {"time_probability": 0.5},
    "contrast": {"negatives": 100},
}
FINETUNING = {
    "family": "spiral",
    "encoder parameters": 90_617_216,
    "finetuning speech": ["librispeech/train-clean-100"],
    "pretraining": PRETRAINING,
    "pretrain_mct": False,
    "finetune_mct": False,
    "frozen": False,
    "units": "subword",
    "lm order": 4,
    "lm units": "word",
    "test": "ns",
    "snr_db": [0.0, 30.0],
    "noise heard in training": [],
}
"""Settings of a fine-tuned model's score."""
RESULTS = (
    values(settings=SETTINGS, dev=90.0, silent={"noise": 2}, heard=["fsd"], condition="fsd"),
    values(task="er", fold=1, settings=SETTINGS),
    values(task=FINETUNED, metric="wer", condition="ns-test-clean", settings=FINETUNING, lm=True),
)


def _show_results(path: Path) -> None:
    """Tables in every format and the scores of a model card; beside the file, one of another seed."""
    (path.parent / "other.json").write_text(json.dumps(RESULTS[0] | {"seed": 1}))
    found = read_results([path.parent])
    tables = build_tables(found)
    for write in (to_markdown, to_csv, to_latex):
        write(tables).encode()
    make_card_scores(found)
    if tuned := [result for result in found if result.task == FINETUNED]:
        to_grid(build_spiral_tables(tuned)).encode()


def _show_run(path: Path) -> None:
    """Collect what a report shows; rendering it takes ten times as long, and is tested elsewhere."""
    collect([path.parent])


def _show_analysis(path: Path) -> None:
    (path.parent / "recipe.yaml").write_text("name: x")
    _show_run(path)


def _json_target(name: str, file: str, seeds: Sequence[Any], read: Callable[[Path], object]) -> Target:
    return Target(
        name=name,
        file=file,
        seeds=lambda: [json.dumps(seed).encode() for seed in seeds],
        read=read,
        parse=read_json,
        dump=write_json,
        words=(b'"', b"{", b"}", b"[", b"]", b",", b":"),
    )


RECORD = {"kind": "tsne", "settings": {"seed": 0, "noises": {"fsd": "0f" * 16}}, "rows": [{"model": "s1"}]}
HEAD = {"checkpoint": "0f", "labels": [["on", "off"]], "label": "keyword", "width": 256, "protocol": "paper"}
RECIPE = b"kind: distil\ndescription: a student\ncdm: setup2\nstudent: {layers: 2}\ndat:\n  enabled: true\n"
LOG = b"lr,step,train/loss,val/loss\n0.1,9,0.5,\n,9,,0.7\n0.1,19,0.4,\n"
OUTCOMES = b"id\ttruth\tprediction\terrors\tcount\na/1\tone two\tone\t1\t2\nb\t\t\\n\t0\t0\n"
CTM = b";; words\na 1 0.00 0.30 one\na 1 0.30 0.25 two 0.98\nb A 1e-1 .5 three\n"
TEXTGRID = (
    b'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 0.5\n'
    b"tiers? <exists>\nsize = 1\n"
    b'item []:\n    item [1]:\n        class = "IntervalTier"\n        name = "words"\n        xmin = 0\n'
    b"        xmax = 0.5\n        intervals: size = 1\n        intervals [1]:\n            xmin = 0\n"
    b'            xmax = 0.5\n            text = "say ""one"""\n'
)
SHORT_TEXTGRID = b'"ooTextFile"\n"TextGrid"\n0\n1\n<exists>\n1\n"TextTier"\n"points"\n0\n1\n1\n0.5\n"a"\n'

TARGETS = [
    _json_target("results", "results/a.json", RESULTS, _show_results),
    _json_target("analysis", "analysis.json", [RECORD], _show_analysis),
    _json_target("head", "head.json", [HEAD], lambda path: read_head(path.parent)),
    Target(
        name="run recipe",
        file="recipe.yaml",
        seeds=lambda: [RECIPE],
        read=_show_run,
        words=(
            b"&a ",
            b"*a",
            b"!!binary ",
            b"!!python/name:os.system ",
            b"<<: ",
            b"2020-01-01",
            b"? ",
            b"- ",
        ),
    ),
    Target(
        name="log",
        file="csv/metrics.csv",
        seeds=lambda: [LOG],
        read=lambda path: read_curves(path.parents[1]),
        words=(b",", b'"', b"\r", b"step", b"nan", b"1e300"),
    ),
    Target(
        name="outcomes",
        file="a.tsv",
        seeds=lambda: [OUTCOMES],
        read=lambda path: error_rate(read_outcomes(path)),
        words=(b"\t", b"\r\n", b'"', b"id", b"errors", b"count"),
    ),
    Target(
        name="ctm",
        file="a.ctm",
        seeds=lambda: [CTM],
        read=lambda path: read_ctm(path, lambda _: True),
        words=(b" ", b"\xa0", b"\xe2\x80\xa8", b"1e999", b"-", b"."),
    ),
    Target(
        name="textgrid",
        file="a.TextGrid",
        seeds=lambda: [TEXTGRID, SHORT_TEXTGRID, TEXTGRID.decode().encode("utf-16")],
        read=read_textgrid,
        words=(b'"', b'""', b"<exists>", b"<absent>", b"IntervalTier", b"TextTier", b"!", b"999999999"),
    ),
]
