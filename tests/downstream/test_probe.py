"""The linear probe finds what is there, and nothing where nothing is."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from distill.checkpoints import native
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.probe import ProbeTask, probe, probe_all
from distill.errors import DataError, UsageError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student

TONES = {"low": 300, "middle": 1200, "high": 4000}
COUNTS = {"train": 60, "dev": 24, "test": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Short tones in noise: the column `pitch` says which, `coin` nothing at all."""
    root = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    rows = ["path\tpitch\tcoin\tsplit"]
    for split, count in COUNTS.items():
        for index in range(count):
            name, hz = list(TONES.items())[index % 3]
            time_s = np.arange(int(generator.integers(2400, 4000))) / 16_000
            samples = 0.3 * np.sin(2 * np.pi * hz * generator.uniform(0.95, 1.05) * time_s)
            samples += 0.03 * generator.standard_normal(len(samples))
            soundfile.write(root / f"{split}{index:02d}.wav", samples, 16_000)
            rows.append(f"{split}{index:02d}.wav\t{name}\t{generator.integers(3)}\t{split}")
    (root / "list.tsv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def encoder() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini")


def task(folder: Path, column: str) -> ProbeTask:
    return ProbeTask(*(open_cuts(f"{folder}/list.tsv?split={split}") for split in COUNTS), column=column)


def accuracies_of(encoder: HubertEncoder, *arguments) -> dict[str, float]:
    return probe({"model": encoder}, *arguments)["model"]


def test_a_planted_label_is_found(folder, encoder):
    accuracies = accuracies_of(encoder, task(folder, "pitch"), ["clean", "gaussian"], NoiseReader({}))
    assert list(accuracies) == ["clean", "gaussian"]
    assert accuracies["clean"] > 95
    assert 100 / 3 < accuracies["gaussian"] <= accuracies["clean"]
    assert not encoder.training


def test_random_labels_are_at_chance(folder, encoder):
    accuracy = accuracies_of(encoder, task(folder, "coin"), ["clean"], NoiseReader({}))["clean"]
    # 60 guesses at one third: a standard deviation of 6 points.
    assert abs(accuracy - 100 / 3) < 20


def test_the_classifier_never_sees_the_test_labels(folder, encoder):
    """Turned around in the test set only, they are all missed."""
    turned = {"low": "middle", "middle": "high", "high": "low"}

    class Turned(ProbeTask):
        def label(self, cut):
            name = super().label(cut)
            return turned[name] if cut.id.startswith("test") else name

    plain = task(folder, "pitch")
    turned_task = Turned(plain.train, plain.dev, plain.test, "pitch")
    assert accuracies_of(encoder, turned_task, ["clean"], NoiseReader({}))["clean"] < 5


def test_several_encoders_are_told_apart(folder, encoder):
    """A blind encoder stays at chance beside one that hears."""
    blind = HubertEncoder.from_preset("mini")
    torch.nn.init.zeros_(blind.projection.weight)
    both = probe({"hears": encoder, "blind": blind}, task(folder, "pitch"), ["clean"], NoiseReader({}))
    assert both["hears"] == accuracies_of(encoder, task(folder, "pitch"), ["clean"], NoiseReader({}))
    assert both["blind"]["clean"] < 60 < both["hears"]["clean"]


def test_labels_are_in_the_cut_or_its_supervision(folder):
    from lhotse import SupervisionSegment

    cut = list(open_cuts(f"{folder}/list.tsv"))[0]
    empty = CutSet()
    assert ProbeTask(empty, empty, empty, "pitch").label(cut) == "low"
    cut.supervisions = [
        SupervisionSegment(id="s", recording_id=cut.recording_id, start=0, duration=0.1, custom={"label": 7})
    ]
    assert ProbeTask(empty, empty, empty).label(cut) == "7"
    with pytest.raises(DataError, match=rf"{cut.id} has no 'accent'"):
        ProbeTask(empty, empty, empty, "accent").label(cut)


def test_unknown_conditions(folder, encoder):
    with pytest.raises(UsageError, match="unknown condition 'rain'"):
        accuracies_of(encoder, task(folder, "pitch"), ["rain"], NoiseReader({}))


def test_a_table_of_several_models(folder, encoder, tmp_path):
    native.write(encoder, tmp_path / "teacher")
    native.write(Student.from_teacher(encoder, layers=1, targets=(2,)), tmp_path / "student")
    plain = task(folder, "pitch")
    names = [str(tmp_path / "teacher"), str(tmp_path / "student")]
    table = probe_all(names, plain, ["clean"], NoiseReader({})).splitlines()
    expected = accuracies_of(encoder, plain, ["clean"], NoiseReader({}))["clean"]
    assert table[:3] == ["| accuracy (%) | clean |", "| --- | --- |", f"| teacher | {expected:.1f} |"]
    assert table[3].startswith("| student | ") and len(table) == 4


def test_a_spiral_beside_a_hubert(folder, encoder):
    """Steady tones are what SPIRAL's normalisation takes away: nothing is asked of its score."""
    torch.manual_seed(0)
    both = {"hubert": encoder, "spiral": SpiralEncoder.from_preset("mini")}
    found = probe(both, task(folder, "pitch"), ["clean", "gaussian"], NoiseReader({}))
    assert set(found) == set(both) and all(0 <= value <= 100 for value in found["spiral"].values())
    assert found["hubert"]["clean"] > 90
