"""Speech and noise that are missing, silent or unreadable: listed, and not too many of them."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from lhotse.audio import AudioSource
from lhotse.utils import fastcopy

from distill.checkpoints import load_student
from distill.data.datamodule import NothingUsable
from distill.data.dataset import SpeechDataset
from distill.errors import DataError
from distill.run import run
from distill.training.faults import BadData, TooManyBad
from distill.training.run_folder import RunFolder
from distill.training.stopping import Interrupted
from tests.distill.training.runs import STEADY, in_rooms, interrupt, log, same_run, tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def some_bad(mini_data, tmp_path) -> Path:
    """The twelve training utterances, of which two are gone and one is not audio."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    (tmp_path / "noise.flac").write_bytes(b"not audio")
    for cut, name in zip(cuts[:3], ["gone1.flac", "gone2.flac", "noise.flac"], strict=True):
        cut.recording.sources[0].source = str(tmp_path / name)
    CutSet.from_cuts(cuts).to_file(tmp_path / "bad.jsonl.gz")
    return tmp_path / "bad.jsonl.gz"


def test_too_many_bad_files_end_the_run_with_a_list(mini_data, some_bad, tmp_path):
    recipe = tiny(mini_data, f"data.train=[{some_bad}]", steps=8)
    with pytest.raises(DataError, match=r"3 of 1\d utterances cannot be used, more than .*=0.01") as error:
        run(recipe, tmp_path / "run")  # at the end of the first epoch
    assert "\n" not in str(error.value) and str(tmp_path / "run/skipped.tsv") in str(error.value)
    lines = (tmp_path / "run/skipped.tsv").read_text().splitlines()
    assert len(lines) == 3 and all("\tcannot be read" in line or "does not exist" in line for line in lines)
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_missing_and_broken_files_of_a_table_count_as_others_do(mini_data, tmp_path):
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    (tmp_path / "noise.flac").write_bytes(b"not audio")
    files = [str(cut.recording.sources[0].source) for cut in cuts[:2]]
    gone = [f"gone{number}.flac" for number in range(50)]
    (tmp_path / "list.tsv").write_text("\n".join(["path", *files, "noise.flac", *gone]) + "\n")
    recipe = tiny(mini_data, f"data.train=[{tmp_path}/list.tsv]", "data.batch_size=24", steps=8)
    with pytest.raises(DataError, match=r"\d+ of \d+ utterances cannot be used, more than .*=0.01") as error:
        run(recipe, tmp_path / "run")
    last = rf"; the last is '\w+': {tmp_path}/list.tsv, line \d+: {tmp_path}/\w+.flac: [^;]+; "
    said = str(error.value)
    assert re.search(last, said) and "fix them, or raise data.max_bad_fraction, then" in said
    lines = (tmp_path / "run/skipped.tsv").read_text().splitlines()
    listed = dict(line.split("\t") for line in lines)
    assert set(listed) == {"noise", *(f"gone{number}" for number in range(50))}
    assert listed["gone7"] == f"{tmp_path}/list.tsv, line 12: {tmp_path}/gone7.flac: does not exist"


def test_some_bad_files_are_listed_once(mini_data, some_bad, tmp_path):
    recipe = tiny(mini_data, f"data.train=[{some_bad}]", "data.max_bad_fraction=0.3", steps=8)
    run(recipe, tmp_path / "run")
    assert len((tmp_path / "run/skipped.tsv").read_text().splitlines()) == 3
    assert load_student(tmp_path / "run")


def test_files_of_the_same_name_in_two_sources_are_both_listed(tmp_path):
    bad = BadData(RunFolder(tmp_path), 0.5)
    bad._add("utterances", [("000", "a/000.wav: does not exist"), ("000", "b/000.wav: is empty")], "")
    bad._add("utterances", [("000", "b/000.wav: is empty")], "")
    lines = (tmp_path / "skipped.tsv").read_text().splitlines()
    assert lines == ["000\ta/000.wav: does not exist", "000\tb/000.wav: is empty"]


def lose(monkeypatch, split: str, place: tuple[int, int]) -> None:
    """Let nothing of that batch be usable, and nothing in its place."""
    read = SpeechDataset.__getitem__

    def broken(self, item):
        if self.fixed_epoch == (split == "dev") and item[:2] == place:
            self = SpeechDataset(self.cuts, max_samples=self.max_samples, targets={}, seed=self.seed)
        return read(self, item)

    monkeypatch.setattr(SpeechDataset, "__getitem__", broken)


@pytest.mark.parametrize(
    ("split", "place", "done"),
    [("train", (0, 0), 0), ("train", (1, 1), 4), ("train", (0, 2), 2), ("dev", (0, 0), 4)],
)
def test_a_batch_of_which_nothing_can_be_used_saves_and_lists(
    mini_data, tmp_path, monkeypatch, split, place, done
):
    """At the start, in the middle and at the end of an epoch, in a validation; it continues when fixed."""
    recipe = tiny(mini_data, *STEADY, name="s6", steps=10)
    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        lose(patch, split, place)
        with pytest.raises(NothingUsable) as stopped:
            run(recipe, tmp_path / "run")
    listed = tmp_path / "run" / "skipped.tsv"
    assert stopped.value.joint and f"; {listed} lists " in str(stopped.value)
    assert "no cluster labels for it" in str(stopped.value) and "\n" not in str(stopped.value)
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert len(names) == len(set(names)) > 0
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == done
    run(recipe, tmp_path / "run", resume=True)
    assert same_run(tmp_path / "run", tmp_path / "whole", after=done, validated=split == "train")


def test_a_lost_stretch_of_the_corpus_does_not_end_the_run(mini_data, tmp_path):
    """However long it is: its batches are made of utterances from elsewhere."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    many = [fastcopy(cut, id=f"{cut.id}-{copy}") for copy in range(100) for cut in cuts]
    for cut in many[:600]:  # more in a row than are tried
        cut.recording = fastcopy(cut.recording, sources=[AudioSource("file", [0], f"{tmp_path}/gone.flac")])
    CutSet.from_cuts(many).to_file(tmp_path / "some.jsonl.gz")
    options = ["data.batch_size=1", "data.workers=1", "data.max_bad_fraction=0.5", "data.max_samples=1600"]
    run(tiny(mini_data, *options, f"data.train=[{tmp_path}/some.jsonl.gz]", steps=25), tmp_path / "run")
    assert 0 < len((tmp_path / "run" / "skipped.tsv").read_text().splitlines()) < 25


def test_a_corpus_that_is_lost_as_a_whole(mini_data, tmp_path):
    """The list reaches the run folder from a data worker, and there is a checkpoint."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    for cut in cuts:
        cut.recording.sources[0].source = f"{tmp_path}/gone.flac"
    CutSet.from_cuts(cuts).to_file(tmp_path / "gone.jsonl.gz")
    with pytest.raises(NothingUsable, match="gone.flac does not exist"):
        run(tiny(mini_data, "data.workers=1", f"data.train=[{tmp_path}/gone.jsonl.gz]"), tmp_path / "run")
    assert len((tmp_path / "run" / "skipped.tsv").read_text().splitlines()) == len(cuts)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_what_was_read_and_listed_is_kept_over_jobs(mini_data, tmp_path, monkeypatch):
    """Each utterance is listed once, and short jobs are judged together."""
    recipe = tiny(mini_data, "data.batch_size=1", "logging.every_n_steps=4", steps=40)
    read = SpeechDataset._utterance

    def broken(self, cut, epoch):
        if not self.fixed_epoch and cut.id == self.cuts[0].id:
            raise DataError(f"{cut.id}: broken")
        return read(self, cut, epoch)

    monkeypatch.setattr(SpeechDataset, "_utterance", broken)
    monkeypatch.setattr("distill.training.faults._ENOUGH_READS", 13)
    for step in (4, 11):  # of the first epoch: no job reads 13 utterances
        with monkeypatch.context() as patch:
            interrupt(patch, step, signal.SIGTERM)
            with pytest.raises(Interrupted):
                run(recipe, tmp_path, resume=step > 4)
    with pytest.raises(TooManyBad, match=r"^1 of 13 utterances cannot be used, .*continue with --resume"):
        run(recipe, tmp_path, resume=True)
    names = [line.split("\t")[0] for line in (tmp_path / "skipped.tsv").read_text().splitlines()]
    assert len(names) == 1
    # Repaired, with the earlier list: judged again.
    monkeypatch.setattr(SpeechDataset, "_utterance", read)
    assert run(recipe, tmp_path, resume=True).exists()


def lost(manifest: Path, out: Path) -> Path:
    """A copy of a manifest, of which no audio is there."""
    cuts = list(CutSet.from_file(manifest))
    for cut in cuts:
        cut.recording.sources[0].source = "/gone.flac"
    CutSet.from_cuts(cuts).to_file(out)
    return out


def test_too_much_unreadable_noise_ends_the_run(mini_data, tmp_path):
    """Judged by itself, at the end of an epoch at the latest; each recording is listed once."""
    rooms = lost(mini_data / "rir_test.jsonl.gz", tmp_path / "rooms.jsonl.gz")
    options = [*in_rooms(mini_data, rooms), "cdm=setup1", "data.workers=1"]
    with pytest.raises(TooManyBad) as stopped:
        run(tiny(mini_data, *options, steps=20), tmp_path / "run")
    listed = tmp_path / "run" / "skipped.tsv"
    assert stopped.value.joint and "\n" not in str(stopped.value)
    words = "12 of 24 reads of noise and rooms cannot be used, more than data.max_bad_fraction=0.01 allows"
    assert words in str(stopped.value) and f"; {listed} lists them: " in str(stopped.value)
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert 0 < len(names) <= 3 and len(set(names)) == len(names)
    assert all(name.startswith("noise ") for name in names)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_noise_that_is_left_out_is_logged(mini_data, tmp_path, caplog):
    """The count continues when a run is resumed; a warning for the first recording only."""
    rooms = lost(mini_data / "rir_test.jsonl.gz", tmp_path / "rooms.jsonl.gz")
    options = [*in_rooms(mini_data, rooms), "cdm=setup1", "data.workers=1", "data.max_bad_fraction=1"]
    options += ["logging.audio_every_n_steps=0"]
    run(tiny(mini_data, *options, steps=4), tmp_path / "run")
    counts = log(tmp_path / "run")["data/noise_left_out"]
    assert counts == [4, 8, 12, 16]
    assert caplog.text.count("a recording of noise cannot be used") == 1
    run(tiny(mini_data, *options, steps=5), tmp_path / "run", resume=True)
    dev = len(CutSet.from_file(mini_data / "speech_dev.jsonl.gz"))
    assert log(tmp_path / "run")["data/noise_left_out"] == [20 + dev]


def silent_noise(out: Path, *, sound_at_s: int | None = None) -> list[str]:
    """What gives every utterance noise without a sound, or whose only sound is far from where it is drawn."""
    out.mkdir(parents=True)
    wave = np.zeros(120 * 16_000)
    if sound_at_s is not None:
        wave[sound_at_s * 16_000 :][:160] = 0.1
    soundfile.write(out / "quiet.wav", wave, 16_000)
    options = [f"data.{key}={{musan: [{out}]}}" for key in ("noises", "dev_noises")]
    return [*options, "distortion.additive=[musan]", "cdm=setup1", "data.workers=1"]


def test_silent_noise_ends_the_run(mini_data, tmp_path):
    """As unreadable noise does: all of the speech would stay clean."""
    with pytest.raises(TooManyBad, match="12 of 12 reads of noise and rooms cannot be .* but silence"):
        run(tiny(mini_data, *silent_noise(tmp_path / "noise"), steps=20), tmp_path / "run")
    listed = (tmp_path / "run" / "skipped.tsv").read_text()
    assert listed == "noise quiet\tholds nothing but silence\n"


def test_noise_that_pauses_is_said_once(mini_data, tmp_path, caplog):
    options = silent_noise(tmp_path / "noise", sound_at_s=119)
    run(tiny(mini_data, *options, steps=4), tmp_path / "run")
    assert caplog.text.count("stretches of noise are silent, where their recordings pause") == 1
    assert not (tmp_path / "run" / "skipped.tsv").exists()
