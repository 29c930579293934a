"""The predictions of a test: a table, and the files that s3prl's experts write.

The table is `predictions/NAME.tsv`, for a result `results/NAME.json`. The files of s3prl 0.4.18 are in
`submit/NAME`, under s3prl's names: a folder that its `submit.py` takes as an `expdir`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from distill.atomic import write_text
from distill.downstream.labels import Outcome
from distill.downstream.tasks import RECORDED

_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\0": r"\0"})


def escaped(text: str) -> str:
    r"""Text for one cell: tabs, line ends, zero bytes and backslashes as `\t`, `\n`, `\r`, `\0`, `\\`."""
    return text.translate(_ESCAPES)


def write_predictions(out: Path, name: str, outcomes: Mapping[str, Outcome]) -> str:
    """Write a test's table of utterances: id, truth, prediction, errors, count.

    Args:
        out: folder of the model's evaluations.
        name: of the result, without `.json`.
        outcomes: by utterance id.

    Returns:
        The file, relative to `out`.
    """
    lines = ["id\ttruth\tprediction\terrors\tcount"]
    for utterance, outcome in sorted(outcomes.items()):
        texts = [escaped(text) for text in (utterance, outcome.truth, outcome.prediction)]
        lines.append("\t".join([*texts, f"{outcome.errors:g}", f"{outcome.total:g}"]))
    file = f"predictions/{name}.tsv"
    write_text(out / file, "\n".join(lines) + "\n")
    return file


def write_submission(
    folder: Path, task: str, condition: str, fold: int | None, outcomes: Mapping[str, Outcome], *, lm: bool
) -> list[Path]:
    """Write predictions and truths as the experts of s3prl do; nothing for tasks that s3prl does not have.

    Args:
        folder: to write to.
        task: ks, ic, er, asr or pr, or another.
        condition: names ASR's files; distorted speech counts as test-clean.
        fold: ER's.
        outcomes: by utterance id.
        lm: whether a language model was used.

    Returns:
        The files.
    """
    split = condition if condition in RECORDED else "test-clean"
    decoder = "LM" if lm else "noLM"
    names = {
        "ks": ("test_predict.txt", "test_truth.txt"),
        "ic": ("test_predict.csv", "test_truth.csv"),
        "er": (f"test_fold{fold}_predict.txt", f"test_fold{fold}_truth.txt"),
        "asr": (f"{split}-{decoder}-hyp.ark", f"{split}-{decoder}-ref.ark"),
        "pr": ("test-hyp.ark", "test-ref.ark"),
    }.get(task, ())
    written = []
    for name, part in zip(names, ("prediction", "truth"), strict=False):
        lines = [_line(task, utterance, getattr(found, part)) for utterance, found in outcomes.items()]
        write_text(folder / name, "".join(lines))
        written.append(folder / name)
    return written


def _line(task: str, utterance: str, text: str) -> str:
    """An utterance as s3prl writes it: `NAME TEXT`, with commas for IC's slots."""
    name, text = escaped(utterance), escaped(text)
    if task == "ic":
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([name, *text.split("|")])
        return line.getvalue()
    if task == "ks":  # s3prl: yes-0a7c2a8d_nohash_0.wav, we: yes/0a7c2a8d_nohash_0
        name = f"{name.replace('/', '-')}.wav"
    return f"{name} {text}\n"
