"""`distill adapt targets`: what it makes, says and refuses."""

import json

import numpy as np
import pytest
import torch

from distill.adaptation.command import make_and_report
from distill.adaptation.targets import Targets
from distill.adaptation.targets_options import TargetsOptions
from distill.errors import CheckpointError, ConfigError, DataError, UsageError
from distill.run import run
from tests.distill.adaptation.small_recipes import adapt_recipe, speech_words
from tests.paths import GOLDEN

CHECKPOINT = GOLDEN / "hubert_base_fairseq.pt"


@pytest.fixture(scope="module")
def made(mini_data, tmp_path_factory):
    """Targets of a recipe, with everything that can be written beside them."""
    out = tmp_path_factory.mktemp("targets")
    job = TargetsOptions(
        source="mini_teacher",
        overrides=speech_words(mini_data),
        out=out / "made",
        jobs=1,
        export_fairseq=out / "fairseq",
        manifests=True,
    )
    return out, make_and_report(job)


def test_a_recipes_targets_with_their_quality(made, mini_data):
    out, said = made
    train, dev = Targets.load(out / "made" / "train"), Targets.load(out / "made" / "dev")
    assert (len(train.labels), len(dev.labels)) == (12, 4) and torch.equal(train.codebook, dev.codebook)
    report = json.loads((out / "made" / "train" / "report.json").read_text())
    counts = np.bincount(np.concatenate(list(train.labels.values())), minlength=10)
    assert report["clusters_used"] == (counts > 0).sum()
    assert report["most_frequent_share"] == pytest.approx(counts.max() / counts.sum(), abs=1e-5)
    p = counts[counts > 0] / counts.sum()
    assert report["perplexity"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), abs=1e-3)
    # speech of espeak-ng has alignments: better than chance, and far from perfect with ten clusters
    assert 0.1 < report["quality"]["pnmi"] < 0.9
    assert report["quality"]["frames"] < report["frames"]  # pauses have no phone
    lines = said.splitlines()
    assert f"{out}/made/train: 12 utterances" in lines[0]
    assert any(f"PNMI {report['quality']['pnmi']:.3f}" in line for line in lines)
    assert lines[-1].startswith("fairseq-hydra-train ... task.data=")
    names = sorted(path.name for path in (out / "fairseq").iterdir())
    assert names == ["dict.km.txt", "train.km", "train.tsv", "valid.km", "valid.tsv"]
    assert len((out / "fairseq" / "valid.km").read_text().splitlines()) == 4


def test_adapt_makes_the_same_targets_and_takes_those_that_are_made(made, mini_data, tmp_path):
    out, _ = made
    own = run(adapt_recipe(mini_data), tmp_path / "own").parent
    first, second = Targets.load(own / "targets" / "train"), Targets.load(out / "made" / "train")
    assert torch.equal(first.codebook, second.codebook)
    assert all(np.array_equal(first.labels[name], second.labels[name]) for name in second.labels)
    given = run(adapt_recipe(mini_data, f"targets.folder={out}/made"), tmp_path / "given").parent
    assert not (given / "targets").exists()
    assert (given / "teacher.safetensors").read_bytes() == (own / "teacher.safetensors").read_bytes()
    with pytest.raises(
        ConfigError, match=r"made/train holds 10 clusters of mfcc, the recipe wants 11 of mfcc"
    ):
        run(adapt_recipe(mini_data, f"targets.folder={out}/made", "targets.clusters=11"), tmp_path / "x")
    with pytest.raises(DataError, match="targets.json is missing"):
        run(adapt_recipe(mini_data, f"targets.folder={tmp_path}"), tmp_path / "y")


def test_speech_with_a_layer_and_then_its_codebook(made, mini_data, tmp_path):
    speech = f"{mini_data}/speech_dev.jsonl.gz"
    job = TargetsOptions(
        source=speech, out=tmp_path / "a", teacher=str(CHECKPOINT), layer=2, clusters=6, jobs=1
    )
    said = make_and_report(job)
    assert "layer 2" in said and Targets.load(tmp_path / "a").codebook.shape == (6, 64)
    again = TargetsOptions(
        source=speech,
        out=tmp_path / "b",
        teacher=str(CHECKPOINT),
        layer=2,
        codebook=str(tmp_path / "a" / "codebook.npy"),
        jobs=1,
    )
    make_and_report(again)
    first, second = Targets.load(tmp_path / "a"), Targets.load(tmp_path / "b")
    assert all(np.array_equal(first.labels[name], second.labels[name]) for name in first.labels)
    assert make_and_report(job) == said  # finished: only read


def test_speech_without_alignments_says_so(noise_folder, tmp_path):
    said = make_and_report(TargetsOptions(source=str(noise_folder), out=tmp_path, clusters=3, jobs=1))
    assert "no phone alignments" in said


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": 2}, UsageError, "name it with --teacher"),
        ({"layer": 2, "features": "mfcc"}, UsageError, "--layer is for --features layer"),
        ({"features": "mfc"}, UsageError, "targets: features must be mfcc or layer, not 'mfc'"),
        ({"clusters": 1}, UsageError, "clusters must be at least 2"),
        ({"clusters": 5, "codebook": "x"}, UsageError, "leave --clusters away"),
        ({"codebook": "nowhere.npy"}, CheckpointError, "nowhere.npy: no codebook"),
        ({"overrides": ("seed=1",)}, UsageError, "only a recipe has keys to change"),
        ({"source": "s4"}, UsageError, "s4 is no recipe of `distill adapt`: its kind is distil"),
        ({"source": "nowhere"}, DataError, "nowhere does not exist"),
        ({"layer": 9, "teacher": str(CHECKPOINT)}, ConfigError, "layer must be in 1..4, not 9"),
    ],
)
def test_mistakes_are_one_clear_line(mini_data, tmp_path, changes, error, message):
    job = TargetsOptions(
        **{"source": f"{mini_data}/speech_dev.jsonl.gz", "out": tmp_path, "jobs": 1, **changes}
    )
    with pytest.raises(error) as caught:
        make_and_report(job)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_targets_of_a_random_models_layer_are_refused(mini_data, tmp_path):
    overrides = speech_words(mini_data)
    job = TargetsOptions(source="mini_teacher_it2", overrides=overrides, out=tmp_path)
    with pytest.raises(UsageError, match="layer 4 of random:mini has learned nothing: name the model"):
        make_and_report(job)
