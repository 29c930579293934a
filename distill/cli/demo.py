"""The whole story on synthetic speech, offline: a teacher is born, students are distilled, noise is heard.

mini corpora -> mini HuBERT (masked prediction) -> s1 (plain DistilHuBERT), s4 (setup2) -> keyword spotting
(SUPERB's KS head, trained on clean speech) -> accuracy on clean and distorted speech -> a page to look at.
The numbers are what came out.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet
from torch import nn

from distill import markdown
from distill.checkpoints import load_student, load_teacher
from distill.config import load
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.distortions.plan import NOISE_CORPORA
from distill.errors import UserError
from distill.options import LoggingConfig
from distill.run import run

CONDITIONS = ("clean", "2-dist", "fsd", "dns")
STUDENTS = {"s1": "none", "s4": "setup2"}  # name: cdm
SEEDS = (0, 1, 2)
N_KEYWORDS = 10
TEACHER_STEPS = 300
STUDENT_STEPS = 80
HEAD_STEPS = 1000


@dataclass
class Result:
    """Accuracies of one model: by condition, one per seed, in per cent."""

    name: str
    accuracies: dict[str, list[float]]

    def mean(self, condition: str) -> float:
        """Over seeds."""
        return float(np.mean(self.accuracies[condition]))

    def spread(self, condition: str) -> float:
        """Largest minus smallest over seeds."""
        return float(np.ptp(self.accuracies[condition]))


def run_demo(out: Path) -> str:
    """Make everything in `out`; what is there already is not made again.

    Returns:
        The table and what it says, as Markdown.

    Raises:
        UserError: if the teacher is below three times chance on clean speech.
    """
    from distill.analysis.report import make_report

    started = time.monotonic()
    say(f"everything goes to {out}/", started)
    data = out / "data"
    prepare_corpora(data)
    say(f"speech and noise made ({data}); next: pre-training a mini HuBERT", started)
    teacher_run = train_once("mini_teacher", out / "runs" / "teacher", data, TEACHER_STEPS, seed=0)
    teacher = load_teacher(str(teacher_run))
    for name, cdm in STUDENTS.items():
        for seed in SEEDS:
            say(f"distilling {name} (cdm: {cdm}), seed {seed}", started)
            folder = out / "runs" / f"{name}-seed{seed}"
            options = [f"name=mini_{name}", f"cdm={cdm}", f"teacher={teacher_run}"]
            train_once("mini", folder, data, STUDENT_STEPS, seed=seed, options=options)
    results = []
    for name, seeds in {"teacher": [None], **dict.fromkeys(STUDENTS, SEEDS)}.items():
        say(f"keyword spotting on {name}: heads trained on clean speech, tested clean and distorted", started)
        runs = {folder_of(out, name, seed): seed or 0 for seed in seeds}
        results.append(Result(name, evaluate_keywords(runs, data, out)))
    report = write_report(results, out)
    say("drawing curves and t-SNE, writing audio and the report", started)
    noises = NoiseReader(test_noises(data))
    draw_curves(out)
    shown: dict[str, nn.Module] = {"teacher": teacher}
    shown |= {name: load_student(str(folder_of(out, name, 0))).encoder for name in STUDENTS}
    draw_tsne(shown, keyword_set(data, "test").subset(first=100), noises, out / "tsne.png")
    write_audio(keyword_set(data, "test"), noises, out / "audio")
    make_report(
        [*sorted((out / "runs").iterdir()), out / "evaluations"],
        out / "report.html",
        speech=keyword_source(data, "test"),
        noises=test_noises(data),
        tsne=out / "tsne.png",
    )
    say(f"done: open {out}/report.html; table.md, curves.png, tsne.png, audio/, runs/ are beside it", started)
    chance = 100.0 / N_KEYWORDS
    if results[0].mean("clean") < 3 * chance:
        raise UserError(
            f"the demo's teacher is at {results[0].mean('clean'):.1f} % on clean keywords, below three times "
            f"chance ({3 * chance:.0f} %): its students mean nothing; please report this with {out}/table.md"
        )
    return report


def say(what: str, started: float) -> None:
    """One line of progress."""
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    print(f"[{minutes}:{seconds:02d}] {what}", file=sys.stderr, flush=True)


def prepare_corpora(data: Path) -> None:
    """Speech, keywords, noises and room responses."""
    from distill.data_prep import CORPORA

    CORPORA["mini"](None, data)


def train_once(
    recipe: str, folder: Path, data: Path, steps: int, *, seed: int, options: Sequence[str] = ()
) -> Path:
    """Run a recipe in `folder`, or go on with it, or leave it when it is done."""
    done = folder / ("teacher.safetensors" if recipe == "mini_teacher" else "student.safetensors")
    if not done.exists():
        resolved = load(
            recipe,
            [
                f"data.root={data}",
                f"seed={seed}",
                f"optim.max_steps={steps}",
                f"validation.every_n_steps={steps // 2}",
                "validation.max_batches=6",
                "data.max_samples=32000",
                "logging.wandb=offline",
                *options,
            ],
        )
        run(resolved, folder, resume=(folder / "checkpoints" / "last.ckpt").exists())
    return folder


def folder_of(out: Path, name: str, seed: int | None) -> Path:
    """The run folder of a model."""
    return out / "runs" / (name if seed is None else f"{name}-seed{seed}")


def evaluate_keywords(runs: Mapping[Path, int], data: Path, out: Path) -> dict[str, list[float]]:
    """`distill evaluate ks` for each run, by its seed: by condition, accuracies in per cent."""
    from distill.downstream.evaluate import evaluate
    from distill.downstream.options import EvaluationConfig

    accuracies: dict[str, list[float]] = {condition: [] for condition in CONDITIONS}
    for run_folder, seed in runs.items():
        config = EvaluationConfig(
            task="ks",
            sources={split: keyword_source(data, split) for split in ("train", "dev", "test")},
            noises=test_noises(data),
            conditions=list(CONDITIONS),
            steps=HEAD_STEPS,
            every_n_steps=HEAD_STEPS // 4,
            seed=seed,
            cache="float32",
            workers=0,
            logging=LoggingConfig(wandb="off"),
            trainer={"accelerator": "cpu", "devices": 1},
        )
        for path in evaluate(run_folder, config, out / "evaluations" / run_folder.name):
            score = json.loads(path.read_text(encoding="utf-8"))
            accuracies[score["condition"]].append(score["value"])
    return accuracies


def keyword_source(data: Path, split: str) -> str:
    """Manifest of single spoken keywords; the speakers of test are in no other split."""
    return str(data / f"keywords_{split}.jsonl.gz")


def keyword_set(data: Path, split: str) -> CutSet:
    """Its utterances."""
    return open_cuts(keyword_source(data, split))


def test_noises(data: Path) -> dict[str, list[str]]:
    """Noises of the test conditions; fsd, dns and rooms are never heard in training."""
    return {name: [str(data / f"{name}_test.jsonl.gz")] for name in NOISE_CORPORA}


def write_report(results: Sequence[Result], out: Path) -> str:
    """The table and its reading, as `table.md` and `results.json`."""
    header = ["accuracy (%)", *CONDITIONS]
    rows = [[r.name, *(cell(r, c) for c in CONDITIONS)] for r in results]
    by_name = {r.name: r for r in results}
    plain, robust = by_name["s1"], by_name["s4"]
    change = [relative_error_change(plain.mean(c), robust.mean(c)) for c in CONDITIONS]
    rows.append(["s4: change of errors against s1", *change])
    reading = [verdict(plain, robust, condition) for condition in CONDITIONS]
    text = "\n".join(
        [
            markdown.table(header, rows),
            "",
            f"Keyword spotting, {N_KEYWORDS} words (chance {100 / N_KEYWORDS:.0f} %), test "
            f"speakers unseen in training; students: mean over {len(SEEDS)} seeds, "
            "in brackets largest minus smallest.",
            "",
            *(f"- {line}" for line in reading),
        ]
    )
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    values = {r.name: r.accuracies for r in results}
    (out / "results.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return text


def cell(result: Result, condition: str) -> str:
    """Mean and, in brackets, spread."""
    mean = f"{result.mean(condition):.1f}"
    return mean if len(result.accuracies[condition]) == 1 else f"{mean} ({result.spread(condition):.1f})"


def relative_error_change(before: float, after: float) -> str:
    """Change of the error rate from accuracy `before` to `after`, in per cent of the former."""
    if before >= 100.0:
        return "-" if after >= 100.0 else "from no errors"
    return f"{100.0 * (before - after) / (100.0 - before):+.0f} %"


def verdict(plain: Result, robust: Result, condition: str) -> str:
    """What the difference between s1 and s4 is worth: nothing, if the seeds spread as far."""
    difference = robust.mean(condition) - plain.mean(condition)
    spread = max(plain.spread(condition), robust.spread(condition))
    if abs(difference) <= spread:
        return f"{condition}: s4 {difference:+.1f} points, within the spread over seeds ({spread:.1f})"
    better, worse = ("s4", "s1") if difference > 0 else ("s1", "s4")
    return (
        f"{condition}: {better} is better than {worse} by {abs(difference):.1f} points (spread {spread:.1f})"
    )


def draw_curves(out: Path) -> Path:
    """Training and dev losses of every run, from their CSV logs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"teacher": "tab:gray", "s1": "tab:blue", "s4": "tab:orange"}
    for run_folder in sorted((out / "runs").iterdir()):
        axis = left if run_folder.name == "teacher" else right
        log = read_log(run_folder / "csv" / "metrics.csv")
        nothing = ([], [])  # a metric that was never logged
        name, _, seed = run_folder.name.partition("-seed")
        colour = colours[name]
        label = name if seed in ("", "0") else None  # one entry for all seeds
        axis.plot(*log.get("train/loss", nothing), color=colour, alpha=0.6, label=label)
        axis.plot(*log.get("val/loss", nothing), "o--", color=colour)
    left.set(title="mini HuBERT: masked prediction", xlabel="step", ylabel="loss (dots: dev)")
    right.set(title="students: distillation", xlabel="step", ylabel="loss (dots: dev)")
    right.legend(fontsize=8)
    path = out / "curves.png"
    figure.savefig(path, dpi=150)
    return path


def read_log(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """By metric, steps and values."""
    log: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    steps, values = log.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
    return log


def draw_tsne(models: Mapping[str, nn.Module], cuts: CutSet, noises: NoiseReader, path: Path) -> Path:
    """Fig. 2 for the demo's models."""
    from distill.analysis.tsne import draw, project, split_means

    return draw({name: project(kinds) for name, kinds in split_means(models, cuts, noises).items()}, path)


def write_audio(cuts: CutSet, noises: NoiseReader, folder: Path) -> None:
    """Four utterances under every condition, to listen to."""
    from distill.downstream.distorted_sets import DistortedSet

    folder.mkdir(parents=True, exist_ok=True)
    for condition in CONDITIONS:
        for batch, waves, lengths, _ in DistortedSet(cuts.subset(first=4), condition, noises).batches():
            for cut, wave, length in zip(batch, waves, lengths, strict=True):
                samples = wave[: int(length)].clamp(-1, 1).numpy()
                soundfile.write(folder / f"{cut.id}_{condition}.flac", samples, 16_000)
