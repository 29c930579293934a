"""The complete method on synthetic speech, offline: pre-train a teacher, distil students, test them in noise.

mini corpora -> mini HuBERT (masked prediction) -> s1 (plain DistilHuBERT), s4 (setup2) -> keyword spotting
(SUPERB's KS head, trained on clean speech) -> accuracy on clean and distorted speech -> an HTML report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from lhotse import CutSet

from distill import markdown
from distill.atomic import read_json, write_json, write_text
from distill.checkpoints import load_student, load_teacher
from distill.cli.stages import Stages
from distill.config import load
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.distortions.options import NOISE_CORPORA
from distill.errors import UserError
from distill.options import LoggingConfig
from distill.run import run
from distill.training.run_folder import RunFolder

if TYPE_CHECKING:
    from distill.encoder import Encoder

CONDITIONS = ("clean", "2-dist", "fsd", "dns")
STUDENTS = {"s1": "none", "s4": "setup2"}  # name: cdm
SEEDS = (0, 1, 2)
N_KEYWORDS = 10
TEACHER_STEPS = 300
STUDENT_STEPS = 80
HEAD_STEPS = 1000
SECONDS = {"data": 30.0, "teacher": 120.0, "s1": 35.0, "s4": 48.0, "ks": 27.0, "report": 25.0}
"""What the stages take on two cores, relative to each other as in a `distill demo` beside other work.

There they took 2.5 to 3.1 times as long, 75, 375, 93, 137, 70 and 71 s (medians over seeds).
"""


@dataclass
class Result:
    """Accuracies of one model."""

    name: str
    accuracies: dict[str, list[float]]
    """By condition: one per seed, in per cent."""

    def mean(self, condition: str) -> float:
        """Mean over seeds."""
        return float(np.mean(self.accuracies[condition]))

    def spread(self, condition: str) -> float:
        """Largest minus smallest over seeds."""
        return float(np.ptp(self.accuracies[condition]))


def run_demo(out: Path) -> str:
    """Make everything in `out`; what is finished there is not made again.

    Returns:
        The table and its interpretation, as Markdown.

    Raises:
        UserError: if the teacher is below three times chance on clean speech.
    """
    data, stages = out / "data", plan(out)
    stages.begin("data", f"making speech and noise, in {data}")
    prepare_corpora(data)
    stages.begin("teacher", f"pre-training a mini HuBERT, in {out}/runs")
    teacher = train_once("mini_teacher", run_folder(out, "teacher"), data, TEACHER_STEPS, seed=0)
    for name, cdm in STUDENTS.items():
        for seed in SEEDS:
            folder = run_folder(out, name, seed)
            stages.begin(folder.name, f"distilling {name} (cdm: {cdm}), seed {seed}")
            options = [f"name=mini_{name}", f"cdm={cdm}", f"teacher={teacher}"]
            train_once("mini", folder, data, STUDENT_STEPS, seed=seed, options=options)
    results = []
    for name, seeds in {"teacher": [None], **dict.fromkeys(STUDENTS, SEEDS)}.items():
        accuracies: dict[str, list[float]] = {condition: [] for condition in CONDITIONS}
        for seed in seeds:
            folder = run_folder(out, name, seed)
            stages.begin(f"ks of {folder.name}", f"spotting keywords with {folder.name}, clean and in noise")
            for condition, accuracy in evaluate_keywords(folder, seed or 0, data, out).items():
                accuracies[condition].append(accuracy)
        results.append(Result(name, accuracies))
    text = write_results(results, out)
    stages.begin("report", "drawing curves and t-SNE, writing audio and the report")
    ratios = illustrate(out, data)
    stages.finish(f"done: open {out}/report.html")
    chance = 100.0 / N_KEYWORDS
    if results[0].mean("clean") < 3 * chance:
        raise UserError(
            f"the demo's teacher is at {results[0].mean('clean'):.1f} % on clean keywords, below three times "
            f"chance ({3 * chance:.0f} %): its students mean nothing; please report this with {out}/table.md"
        )
    return f"{text}\n\n{ratios}"


def plan(out: Path) -> Stages:
    """All stages and how long they take; those that an earlier call finished in `out` take no time."""
    teacher = RunFolder(run_folder(out, "teacher"))
    students = {name: [RunFolder(run_folder(out, name, seed)) for seed in SEEDS] for name in STUDENTS}
    stages = {
        "data": (SECONDS["data"], out / "data", (out / "data" / "prepared.json").exists()),
        "teacher": (SECONDS["teacher"], teacher.path, teacher.teacher.exists()),
    }
    for name, folders in students.items():
        stages |= {each.path.name: (SECONDS[name], each.path, each.student.exists()) for each in folders}
    for each in (teacher, *(folder for folders in students.values() for folder in folders)):
        scores = evaluation_folder(out, each.path.name)
        finished = len([*scores.glob("results/*.json")]) == len(CONDITIONS)
        stages[f"ks of {each.path.name}"] = SECONDS["ks"], scores, finished
    stages["report"] = SECONDS["report"], out / "report.html", False
    return Stages(
        {stage: 0.0 if finished else seconds for stage, (seconds, _, finished) in stages.items()},
        resumed={stage for stage, (_, place, _) in stages.items() if place.exists()},
    )


def prepare_corpora(data: Path) -> None:
    """Synthesise speech, keywords, noises and room impulse responses."""
    from distill.data_prep import CORPORA

    CORPORA["mini"](None, data)


def train_once(
    recipe: str, folder: Path, data: Path, steps: int, *, seed: int, options: Sequence[str] = ()
) -> Path:
    """Train a recipe in `folder`, resume its training, or leave it if it is finished; the folder."""
    files = RunFolder(folder)
    done = files.teacher if recipe == "mini_teacher" else files.student
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
        run(resolved, folder, resume=files.last.exists())
    return folder


def run_folder(out: Path, name: str, seed: int | None = None) -> Path:
    """The run folder of the teacher or of a student."""
    return out / "runs" / (name if seed is None else f"{name}-seed{seed}")


def evaluation_folder(out: Path, name: str) -> Path:
    """Head and scores of the model with this run folder."""
    return out / "evaluations" / name


def evaluate_keywords(folder: Path, seed: int, data: Path, out: Path) -> dict[str, float]:
    """Do what `distill evaluate ks` does for a run.

    Args:
        folder: the run folder of the model.
        seed: of the head.
        data: the corpora.
        out: folder of the demo.

    Returns:
        Accuracy by condition, in per cent.
    """
    from distill.downstream.evaluate import evaluate
    from distill.downstream.options import EvaluationConfig

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
    scores = [read_json(path) for path in evaluate(folder, config, evaluation_folder(out, folder.name))]
    return {score["condition"]: score["value"] for score in scores}


def keyword_source(data: Path, split: str) -> str:
    """Manifest of single spoken keywords; the test speakers are in no other split."""
    return str(data / f"keywords_{split}.jsonl.gz")


def keyword_set(data: Path, split: str) -> CutSet:
    """The utterances of `keyword_source`."""
    return open_cuts(keyword_source(data, split))


def test_noises(data: Path) -> dict[str, list[str]]:
    """Noises of the test conditions; fsd, dns and rooms are never used in training."""
    return {name: [str(data / f"{name}_test.jsonl.gz")] for name in NOISE_CORPORA if name != "speech"}


def write_results(results: Sequence[Result], out: Path) -> str:
    """Write `table.md` and `results.json`.

    Returns:
        The table and its interpretation, as Markdown.
    """
    header = ["accuracy (%)", *CONDITIONS]
    rows = [[r.name, *(cell(r, c) for c in CONDITIONS)] for r in results]
    by_name = {r.name: r for r in results}
    plain, robust = by_name["s1"], by_name["s4"]
    change = [relative_error_change(plain.mean(c), robust.mean(c)) for c in CONDITIONS]
    rows.append(["s4: change of errors against s1", *change])
    text = "\n".join(
        [
            markdown.table(header, rows),
            "",
            f"Keyword spotting, {N_KEYWORDS} words (chance {100 / N_KEYWORDS:.0f} %), test "
            f"speakers unseen in training; students: mean over {len(SEEDS)} seeds, "
            "in brackets largest minus smallest.",
            "",
            *(f"- {verdict(plain, robust, condition)}" for condition in CONDITIONS),
        ]
    )
    write_text(out / "table.md", text + "\n")
    write_json(out / "results.json", {r.name: r.accuracies for r in results})
    return text


def cell(result: Result, condition: str) -> str:
    """The mean over seeds and, of more than one, the spread in brackets."""
    mean = f"{result.mean(condition):.1f}"
    return mean if len(result.accuracies[condition]) == 1 else f"{mean} ({result.spread(condition):.1f})"


def relative_error_change(before: float, after: float) -> str:
    """Change of the error rate from accuracy `before` to `after`, relative to the rate before."""
    if before >= 100.0:
        return "-" if after >= 100.0 else "from no errors"
    return f"{100.0 * (before - after) / (100.0 - before):+.0f} %"


def verdict(plain: Result, robust: Result, condition: str) -> str:
    """Which of s1 and s4 is better in a condition: neither, if seeds differ by as much."""
    difference = robust.mean(condition) - plain.mean(condition)
    spread = max(plain.spread(condition), robust.spread(condition))
    if abs(difference) <= spread:
        return f"{condition}: s4 {difference:+.1f} points, within the spread over seeds ({spread:.1f})"
    better, worse = ("s4", "s1") if difference > 0 else ("s1", "s4")
    return (
        f"{condition}: {better} is better than {worse} by {abs(difference):.1f} points (spread {spread:.1f})"
    )


def illustrate(out: Path, data: Path) -> str:
    """Draw curves and t-SNE, write distorted audio and the report.

    Returns:
        The numbers that t-SNE stands for, as Markdown.
    """
    from distill.analysis.report import make_report

    noises, keywords = NoiseReader(test_noises(data)), keyword_set(data, "test")
    draw_curves(out)
    models: dict[str, Encoder] = {"teacher": load_teacher(str(run_folder(out, "teacher")))}
    models |= {name: load_student(str(run_folder(out, name, seed=0))).encoder for name in STUDENTS}
    ratios = draw_tsne(models, keywords.subset(first=100), noises, out / "tsne.png")
    write_audio(keywords, noises, out / "audio")
    make_report(
        [*sorted((out / "runs").iterdir()), out / "evaluations"],
        out / "report.html",
        speech=keyword_source(data, "test"),
        noises=test_noises(data),
        tsne=out / "tsne.png",
    )
    return ratios


def draw_curves(out: Path) -> Path:
    """Draw the training and dev losses of every run."""
    from matplotlib.figure import Figure

    from distill.analysis.run_logs import read_curves

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"teacher": "tab:gray", "s1": "tab:blue", "s4": "tab:orange"}
    for folder in sorted((out / "runs").iterdir()):
        axis = left if folder.name == "teacher" else right
        curves = read_curves(folder)
        nothing = ([], [])  # a metric that was never logged
        name, _, seed = folder.name.partition("-seed")
        colour = colours[name]
        label = name if seed in ("", "0") else None  # one entry for all seeds
        axis.plot(*curves.get("train/loss", nothing), color=colour, alpha=0.6, label=label)
        axis.plot(*curves.get("val/loss", nothing), "o--", color=colour)
    left.set(title="mini HuBERT: masked prediction", xlabel="updates", ylabel="loss (dots: dev)")
    right.set(title="students: distillation", xlabel="updates", ylabel="loss (dots: dev)")
    right.legend(fontsize=8)
    path = out / "curves.png"
    figure.savefig(path, dpi=150)
    return path


def draw_tsne(models: Mapping[str, Encoder], cuts: CutSet, noises: NoiseReader, path: Path) -> str:
    """Draw the paper's Fig. 2 for the demo's models, and write its points (CSV) and ratios (JSON) beside it.

    Returns:
        The ratios as Markdown.
    """
    from distill.analysis.models import OurModel
    from distill.analysis.splits import make_splits
    from distill.analysis.tsne import ratios_table, write_picture

    found = make_splits([OurModel(model, name) for name, model in models.items()], cuts, noises)
    return ratios_table(write_picture(found, path, {"speech": f"{len(cuts)} test utterances of the demo"}))


def write_audio(cuts: CutSet, noises: NoiseReader, folder: Path) -> None:
    """Write four utterances under every condition as FLAC files."""
    from distill.downstream.distorted_sets import DistortedSet

    folder.mkdir(parents=True, exist_ok=True)
    for condition in CONDITIONS:
        for batch, waves, lengths, _ in DistortedSet(cuts.subset(first=4), condition, noises).batches():
            for cut, wave, length in zip(batch, waves, lengths, strict=True):
                samples = wave[: int(length)].clamp(-1, 1).numpy()
                soundfile.write(folder / f"{cut.id}_{condition}.flac", samples, 16_000)
