"""Curves and recipes of run folders, also of resumed and damaged ones."""

import logging

from distill.analysis.run_logs import read_curves, read_runs, unique_labels
from tests.analysis.made_runs import write_run


def test_a_resumed_runs_curves_are_whole_and_its_lost_part_is_left_out(tmp_path):
    """Part 10 comes after part 2; updates that were done again are those of the later part."""
    (tmp_path / "csv").mkdir()
    parts = {
        "metrics-1.csv": "step,train/loss\n9,1\n19,2\n29,99\n39,98\n",
        "metrics-2.csv": "step,train/loss,val/loss\n29,3,\n29,,7\n39,97,\n",
        "metrics-10.csv": "step,train/loss\n34,4\n",
        "metrics.csv": "step,train/loss\n44,5\n54,nan\n64,oops\n74,\n,6\n84,7,8,9\n9",
    }
    for name, text in parts.items():
        (tmp_path / "csv" / name).write_text(text)
    curves = read_curves(tmp_path)
    assert curves.keys() == {"train/loss", "val/loss"}
    steps, values = curves["train/loss"]
    # The last line was cut off in the middle of 94: it has no value.
    assert steps.tolist() == [10, 20, 30, 35, 45, 85]
    assert values.tolist() == [1, 2, 3, 4, 5, 7]
    assert [part.tolist() for part in curves["val/loss"]] == [[30], [7]]


def test_labels_tell_folders_apart(tmp_path):
    folders = [tmp_path / "a" / "s4", tmp_path / "b" / "s4", tmp_path / "b" / "s1"]
    assert unique_labels(folders) == ["a/s4", "b/s4", "b/s1"]
    assert unique_labels(folders[1:]) == ["s4", "s1"]


def test_a_damaged_run_is_warned_about(tmp_path, caplog):
    run = write_run(tmp_path / "run")
    (run / "versions.json").write_text("{")
    (run / "recipe.yaml").write_text("a: [")
    with caplog.at_level(logging.WARNING):
        (log,) = read_runs([run, run / "csv" / ".."])  # the same twice
    assert (log.versions, log.recipe, log.recipe_text) == ({}, {}, "a: [")
    assert "versions.json cannot be read" in caplog.text
    assert "recipe.yaml cannot be read" in caplog.text
    assert log.best("val/loss") == (2 / 40, 40)
