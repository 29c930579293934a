"""Which files `distill data check` looks at, what it finds in them, and what of it stops a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.cli import main
from distill.data_prep.manifests import cut_from_file, cut_of_all_channels, write_cuts
from distill.preflight.check import check
from distill.preflight.survey import survey
from tests.distill.preflight.reports import finding, mini


def test_only_a_sample_of_a_large_source_is_opened_but_all_are_looked_for(corpus):
    for i in range(9):
        (corpus / "audio" / f"{i}.wav").write_text("no audio")
    source = f"{corpus}/some/all.jsonl.gz"
    found = survey(source, sample=3, seed=1)
    assert (found.utterances, found.looked_for, found.looked_at) == (10, 10, 3) and 2 <= len(found.bad) <= 3
    assert survey(source, sample=3, seed=1).bad == found.bad
    assert any(survey(source, sample=3, seed=seed).bad != found.bad for seed in range(2, 6))
    whole = survey(source, sample=None, seed=1)
    assert (whole.looked_at, len(whole.bad), whole.bad_share) == (10, 9, 0.9)
    shutil.rmtree(corpus / "audio")
    gone = survey(source, sample=3, seed=1)
    assert [line.rpartition("/")[2] for line in gone.bad] == [f"{i}.wav: does not exist" for i in range(10)]
    report = check(mini(corpus, f"data.train=[{source}]"), sample=3)
    assert "10 bad files in " in finding(report, "train: all").problem
    assert "(3 of 10 files looked at)" in finding(report, "train: all").problem


def test_huge_sources_are_searched_in_part(corpus, monkeypatch):
    monkeypatch.setattr("distill.preflight.survey.MOST_STATS", 4)
    shutil.rmtree(corpus / "audio")
    found = survey(f"{corpus}/some/all.jsonl.gz", sample=2, seed=0)
    assert found.looked_for == 4 and 4 <= len(found.bad) <= 6 and found.bad_share >= 1


def test_the_sampling_rate_is_compared_with_the_manifest(corpus):
    """The same duration at another rate: training refuses such a file."""
    soundfile.write(corpus / "audio" / "3.wav", np.zeros(4_000), 8_000)
    (problem,) = survey(f"{corpus}/some/all.jsonl.gz", sample=None, seed=0).bad
    assert problem.endswith("3.wav: has 8000 Hz, its manifest says 16000")
    soundfile.write(corpus / "audio" / "stereo.wav", np.zeros((4_000, 2)), 8_000)
    cuts = [cut_of_all_channels(corpus / "audio" / "stereo.wav", "s")]
    write_cuts(cuts, corpus / "some" / "stereo.jsonl.gz")
    assert not survey(f"{corpus}/some/stereo.jsonl.gz", sample=None, seed=0).bad
    soundfile.write(corpus / "audio" / "stereo.wav", np.zeros((8_000, 2)), 16_000)
    (problem,) = survey(f"{corpus}/some/stereo.jsonl.gz", sample=None, seed=0).bad
    assert problem.endswith("stereo.wav: has 16000 Hz, its manifest says 8000")


def test_the_sample_on_the_command_line(mini_data, corpus, capsys):
    words = ["data", "check", "mini", f"data.root={mini_data}", "teacher=random:mini"]
    words += ["trainer.accelerator=cpu", f"data.train=[{corpus}/some/all.jsonl.gz]"]
    assert main([*words, "--sample", "4"]) == 0 and "4 of 10 files looked at" in capsys.readouterr().out
    assert main([*words, "--sample", "all"]) == 0 and "looked at" not in capsys.readouterr().out
    for wrong in ("0", "-3", "some"):
        with pytest.raises(SystemExit) as stopped:
            main([*words, f"--sample={wrong}"])
        assert stopped.value.code == 2 and "neither a positive number nor all" in capsys.readouterr().err


def noisy(corpus: Path, *silent: str) -> str:
    """Ten recordings of noise, some of which hold zeros; half a minute of silence is no fault."""
    for name in silent:
        soundfile.write(corpus / "audio" / f"{name}.wav", np.zeros(8_000), 16_000)
    pausing = np.concatenate([np.zeros(32 * 8_000), np.full(800, 0.1)])
    soundfile.write(corpus / "audio" / "9.wav", pausing, 8_000)
    files = [corpus / "audio" / f"{i}.wav" for i in range(10)]
    write_cuts([cut_from_file(file) for file in files], corpus / "some" / "noise.jsonl.gz")
    return f"{corpus}/some/noise.jsonl.gz"


@pytest.mark.parametrize("form", ["manifest", "folder"])
def test_silent_noise_is_named_and_pauses_are_not(mini_data, corpus, form):
    source = noisy(corpus, "3")
    source = source if form == "manifest" else f"{corpus}/audio"
    assert not survey(source, sample=None, seed=0).bad
    found = survey(source, sample=None, seed=0, kind="noise")
    assert found.bad == [f"{corpus}/audio/3.wav: holds nothing but silence"] and found.bad_share == 0.1
    noises = f"data.noises={{musan: [{source}], wham: [{mini_data}/wham_train.jsonl.gz]}}"
    options = [noises, "cdm=setup1"]
    report = check(mini(mini_data, *options, "data.max_bad_fraction=0.1"))
    assert report.ok and "3.wav: holds nothing" in finding(report, "noises.musan").fix
    report = check(mini(mini_data, *options))
    assert finding(report, "noises.musan").state == "missing" and "3.wav: holds" in str(report)


def test_silent_rooms_are_named_and_faint_ones_are_not(corpus):
    """What counts is the energy of a response, not its level."""
    source = noisy(corpus, "3")
    soundfile.write(corpus / "audio" / "4.wav", np.eye(1, 8_000)[0] * 1e-6, 16_000, subtype="FLOAT")
    assert [line.rpartition("/")[2] for line in survey(source, sample=None, seed=0, kind="rooms").bad] == [
        "3.wav: holds nothing but silence"
    ]


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_bad_files_of_a_table_or_folder(corpus, kind):
    audio = corpus / "audio"
    if kind == "table":
        (corpus / "t.tsv").write_text("path\n" + "\n".join(f"audio/{i}.wav" for i in range(10)) + "\n")
        (audio / "3.wav").unlink()
    else:
        (audio / "3.wav").write_text("no audio")
    found = survey(str(corpus / "t.tsv" if kind == "table" else audio), sample=2000, seed=0)
    assert (found.utterances, len(found.bad), found.bad_share) == (10, 1, 0.1)
    why = "does not exist" if kind == "table" else "cannot be read (Format not recognised)"
    row = f"{corpus}/t.tsv, line 5: " if kind == "table" else ""
    assert found.bad == [f"{row}{audio}/3.wav: {why}"]
    assert found.hours == pytest.approx(9 * 0.5 / 3600)
