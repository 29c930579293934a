"""Run folders and results, written by hand, with names that try to break a page."""

import json
from pathlib import Path

from distill.analysis.figures import PAGE_IN, draw_lines, new_figure, save
from distill.analysis.record import Record
from tests.downstream.made_results import values

NASTY = "s4 <script>alert(1)</script> $x_1$ & \"q\" 'p' ${title} ñ"


def result(**changes) -> dict:
    """A result of a model with a nasty name."""
    return values(**{"model": NASTY, "versions": {}} | changes)


def write_results(folder: Path) -> None:
    """Every task of the paper, one of ours with a nasty name, an error rate beyond 100 %."""
    (folder / "results").mkdir(parents=True)
    changes = [
        {"task": task, "condition": condition, "value": value, "seed": seed}
        for task in ("ks", "ic", "er")
        for condition, value in (("clean", 90.0), ("2-dist", 80.0), ("fsd", 70.0), ("dns", 60.0))
        for seed in (0, 1)
    ]
    changes += [
        {"task": "asr", "metric": "wer", "condition": c, "value": v}
        for c, v in (("clean", 12.0), ("test-other", 30.0), ("dns", 130.0), ("chime3", 50.0))
    ]
    changes += [{"recipe": None}, {"recipe": "a_very_long_recipe_name_" * 3}, {"condition": NASTY[:20]}]
    for index, change in enumerate(changes):
        (folder / "results" / f"{index}.json").write_text(json.dumps(result(**change)))


def write_run(folder: Path, *, kind: str = "distil", n_steps: int = 40) -> Path:
    (folder / "csv").mkdir(parents=True)
    recipe = f"kind: {kind}\ndescription: {json.dumps(NASTY)}\ncdm: setup2\nstudent: {{layers: 2}}\n"
    (folder / "recipe.yaml").write_text(recipe + "dat: {enabled: true}\n")
    (folder / "versions.json").write_text('{"torch": "2.11.0"}')
    (folder / "finished.json").write_text('{"steps": 40, "seconds": 3.0}')
    lines = ["lr,step,train/loss,val/loss,val/loss_clean"]
    for step in range(9, n_steps, 10):
        lines += [f"0.1,{step},{1 / (step + 1)},,", f",{step},,{2 / (step + 1)},{3 / (step + 1)}"]
    (folder / "csv" / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_head(folder: Path, errors: list[float], *, every: int = 10) -> None:
    (folder / "csv").mkdir(parents=True)
    lines = [f"{every * number - 1},{error}" for number, error in enumerate(errors, start=1)]
    (folder / "csv" / "metrics.csv").write_text("\n".join(["step,val/error", *lines]) + "\n")


def write_analysis(folder: Path, *, kind: str = NASTY, rows: int = 3) -> Path:
    """A record whose texts try to break a page, with two figures."""
    row = {
        "model": NASTY,
        NASTY: 0.5,
        "many": list(range(200)),
        **{f"column {index}": 1 / 3 for index in range(9)},
    }
    record = Record(folder, kind, {"speech": "0123456789abcdef" * 2, "text": NASTY}, ["model"])
    record.rows = [row] * rows
    record.write()
    figure = new_figure()
    draw_lines(figure.subplots(), {NASTY: ([0, 1], [1, 0])}, xlabel="layer", ylabel=NASTY)
    save(figure, folder / "by_layer", [])
    save(new_figure(width_in=PAGE_IN), folder / NASTY.replace("/", ""), [])
    return folder
