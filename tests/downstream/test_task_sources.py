"""Names of utterances: the same in two splits, or twice in one."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording

from distill.data_prep.manifests import cut_from_file, write_cuts
from distill.downstream.evaluate import evaluate
from distill.downstream.options import EvaluationConfig
from distill.downstream.task_sources import noise_sources, read_split
from distill.errors import DataError, UsageError
from distill.hubert import HubertConfig


@pytest.fixture
def sources(tmp_path) -> dict[str, str]:
    """`train/000.wav`, `dev/000.wav` and so on: every name means another class in dev."""
    found = {split: f"{tmp_path}/{split}/list.tsv" for split in ("train", "dev", "test")}
    for split, source in found.items():
        Path(source).parent.mkdir()
        rows = []
        for number in range(12):
            hz = (300, 3000)[(number + (split == "dev")) % 2]
            wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(4000 + 10 * number) / 16_000)
            soundfile.write(f"{tmp_path}/{split}/{number:03d}.wav", wave, 16_000)
            rows.append(f"{number:03d}.wav\t{hz}\n")
        Path(source).write_text("path\tlabel\n" + "".join(rows))
    return found


@pytest.mark.parametrize("cache", ["float32", "off"])
def test_train_and_dev_keep_their_own_labels_and_features(quick, student, sources, tmp_path, cache):
    options = {"sources": sources, "conditions": ["clean"], "steps": 30, "every_n_steps": 15, "lr": 1e-2}
    (path,) = evaluate(student, quick("ks", cache=cache, batch_size=8, **options), tmp_path / "out")
    result = json.loads(path.read_text())
    assert (result["value"], result["dev"]) == (100.0, 100.0)


def test_the_same_name_twice_in_a_split_is_refused_with_both_files(quick, student, sources, tmp_path):
    cuts = [cut_from_file(tmp_path / "train" / f"{name}.wav", "same") for name in ("000", "001")]
    for cut in cuts:
        cut.custom = {"label": "300"}
    write_cuts(cuts, tmp_path / "train.jsonl.gz")
    both = f"{tmp_path}/train/000.wav and {tmp_path}/train/001.wav are both called same; names must differ"
    config = quick("ks", sources=sources | {"train": f"{tmp_path}/train.jsonl.gz"}, conditions=["clean"])
    with pytest.raises(DataError, match=re.escape(both)):
        evaluate(student, config, tmp_path / "out")


def test_sessions_that_are_trained_on_together_are_one_split(quick, student, task_data, tmp_path):
    folder = task_data / "iemocap"
    config = quick("er", sources={"session2": f"{folder}/session1.jsonl.gz"}, folds=[5], conditions=["clean"])
    with pytest.raises(
        DataError, match=r"session1.jsonl.gz, .*: .* are both called Ses.*; names must differ"
    ):
        evaluate(student, config, tmp_path / "out")


def test_a_line_that_is_no_cut_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 16_000)
    path = tmp_path / "test.jsonl"
    CutSet.from_cuts([Recording.from_file(tmp_path / "a.wav").to_cut()]).to_file(path)
    path.write_text(path.read_text() + '{"id": "b"}\n')
    with pytest.raises(DataError, match="1 audio files of 2 .*test.jsonl, line 2: no cut"):
        read_split(EvaluationConfig(task="ks", sources={"test": str(path)}), "test", HubertConfig())


def test_other_speech_as_noise_has_no_default():
    config = EvaluationConfig(task="ks", conditions=["clean", "speech@0"])
    with pytest.raises(UsageError, match="condition speech needs other utterances: .* --noise speech=SOURCE"):
        noise_sources(config)
    config.noises = {"speech": ["other.tsv"]}
    assert noise_sources(config) == {"speech": ["other.tsv"]}
