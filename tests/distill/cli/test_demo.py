"""What the demo says of its accuracies, and where its curves come from; `make demo` runs all of it."""

import json

import numpy as np
import pytest
import soundfile

from distill.cli.demo import (
    CONDITIONS,
    SECONDS,
    Result,
    cell,
    draw_curves,
    draw_tsne,
    plan,
    relative_error_change,
    run_folder,
    verdict,
    write_results,
)
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.hubert import HubertEncoder


def result(name: str, *accuracies: float) -> Result:
    """The same accuracies under every condition."""
    return Result(name, {condition: list(accuracies) for condition in CONDITIONS})


def test_a_cell_has_a_spread_if_there_are_several_seeds():
    assert cell(result("teacher", 91.25), "clean") == "91.2"
    assert cell(result("s1", 90.0, 92.0, 94.0), "dns") == "92.0 (4.0)"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (90.0, 95.0, "-50 %"),
        (95.0, 90.0, "+100 %"),
        (90.0, 90.0, "+0 %"),
        (100.0, 100.0, "-"),
        (100.0, 99.0, "from no errors"),
    ],
)
def test_changes_of_the_error_rate_are_relative_to_the_first(before, after, expected):
    assert relative_error_change(before, after) == expected


def test_a_difference_within_the_spread_over_seeds_is_none():
    plain = result("s1", 88.0, 90.0, 92.0)
    assert verdict(plain, result("s4", 94.0), "fsd") == (
        "fsd: s4 +4.0 points, within the spread over seeds (4.0)"
    )
    assert verdict(plain, result("s4", 95.0), "fsd") == (
        "fsd: s4 is better than s1 by 5.0 points (spread 4.0)"
    )
    assert verdict(plain, result("s4", 80.0), "fsd") == (
        "fsd: s1 is better than s4 by 10.0 points (spread 4.0)"
    )


def test_results_are_a_table_and_values(tmp_path):
    results = [result("teacher", 99.0), result("s1", 80.0, 90.0), result("s4", 95.0, 96.0)]
    text = write_results(results, tmp_path)
    assert (tmp_path / "table.md").read_text() == text + "\n"
    lines = text.splitlines()
    assert lines[0] == "| accuracy (%) | clean | 2-dist | fsd | dns |"
    assert lines[3] == "| s1 | 85.0 (10.0) | 85.0 (10.0) | 85.0 (10.0) | 85.0 (10.0) |"
    assert lines[5] == "| s4: change of errors against s1 | -70 % | -70 % | -70 % | -70 % |"
    assert sum(line.startswith("- ") for line in lines) == len(CONDITIONS)
    values = json.loads((tmp_path / "results.json").read_text())
    assert values == {each.name: each.accuracies for each in results}


def test_curves_are_drawn_of_every_run_also_of_one_that_logged_nothing(tmp_path):
    for name, seed, text in (
        ("teacher", None, "step,train/loss,val/loss\n9,5.0,\n9,,4.0\n19,3.0,\n"),
        ("s1", 0, "step,train/loss\n9,2.0\n"),
        ("s4", 1, "step,lr\n9,0.1\n"),
    ):
        folder = run_folder(tmp_path, name, seed) / "csv"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(text)
    assert draw_curves(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_tsne_is_drawn_with_its_ratios(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "speech").mkdir()
    for index in range(3):
        samples = 0.1 * generator.standard_normal(3000)
        soundfile.write(tmp_path / "speech" / f"{index}.wav", samples, 16_000)
    models = {"s1": HubertEncoder.from_preset("mini")}
    cuts = open_cuts(str(tmp_path / "speech"))
    text = draw_tsne(models, cuts, NoiseReader({}), tmp_path / "tsne.png")
    assert text.startswith("| within / between splits | all | gaussian | reverb |\n| --- | ---: |")
    rows = json.loads((tmp_path / "tsne.json").read_text())["rows"]
    assert [row["condition"] for row in rows] == ["all", "gaussian", "reverb"]
    assert f"| s1 | {rows[0]['ratio']:.2f} |" in text
    assert {path.name for path in tmp_path.glob("tsne.*")} == {
        f"tsne.{end}" for end in ("png", "pdf", "csv", "json")
    }


def test_the_plan_is_of_what_an_earlier_call_left(tmp_path):
    stages = plan(tmp_path)
    everything = SECONDS["data"] + SECONDS["teacher"] + 3 * (SECONDS["s1"] + SECONDS["s4"])
    assert sum(stages.left_s.values()) == everything + 7 * SECONDS["ks"] + SECONDS["report"]
    assert not stages.resumed
    for name in (
        "data/prepared.json",
        "runs/teacher/teacher.safetensors",
        "runs/s1-seed0/student.safetensors",
        "runs/s1-seed1/checkpoints/last.ckpt",
        *(f"evaluations/teacher/results/ks_{condition}.json" for condition in CONDITIONS),
        "evaluations/s4-seed2/results/ks_clean.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    stages = plan(tmp_path)
    finished = {"data", "teacher", "s1-seed0", "ks of teacher"}
    assert {stage for stage, seconds in stages.left_s.items() if not seconds} == finished
    assert stages.resumed == finished | {"s1-seed1", "ks of s4-seed2"}
