"""Speech and noise of a recipe: what is missing, bad or cannot be used, and what there is to do."""

import numpy as np
import pytest
import soundfile

from distill.config import load, recipe_names
from distill.data_prep import CORPORA
from distill.data_prep.advice import how_to_make
from distill.preflight.check import check
from distill.preflight.findings import WIDTH
from distill.preflight.survey import survey
from tests.distill.preflight.reports import finding, mini


def test_every_bad_file_is_found_and_five_are_named(corpus):
    audio = corpus / "audio"
    for i in range(5):
        (audio / f"{i}.wav").unlink()
    (audio / "5.wav").write_bytes(b"")
    (audio / "6.wav").write_text("no audio")
    soundfile.write(audio / "7.wav", np.zeros(4_000), 16_000)
    found = survey(f"{corpus}/some/all.jsonl.gz", sample=2000, seed=0)
    assert [line.rpartition("/")[2] for line in found.bad] == [
        *(f"{i}.wav: does not exist" for i in range(5)),
        "5.wav: is empty",
        "6.wav: cannot be read (Format not recognised)",
        "7.wav: has 0.25 s, its manifest says 0.50 s",
    ]
    report = check(mini(corpus, f"data.train=[{corpus}/some/all.jsonl.gz]"))
    line = finding(report, "train: all")
    assert (line.state, line.detail) == ("missing", "8 bad of 10, 0.00 h")
    text = str(report)
    assert "0.wav: does not exist" in text and "4.wav: does not exist" in text and "5.wav" not in text
    assert "and 3 more" in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl.gz", "no gzip", "not a lhotse cut manifest"),
        ("a.tsv", "file\nx.wav\n", "no column 'path'"),
        ("a.tsv", "path\nx.wav\n", "no file that it names exists"),
        ("a.txt", "x.wav\n", "expected a .jsonl.gz manifest, a .tsv or a folder of audio"),
    ],
)
def test_a_source_that_cannot_be_used(mini_data, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    report = check(mini(mini_data, f"data.dev=[{tmp_path}/{name}]"))
    line = finding(report, "dev: a")
    assert line.state == "wrong" and message in line.problem and len(report.problems) == 1


def test_fewer_utterances_than_processes(mini_data):
    report = check(mini(mini_data, "trainer.devices=1000", "data.batch_size=1000"))
    said = [line.problem for line in report.problems if line.what == "dev"]
    assert len(said) == 1 and said[0].endswith(" utterances for 1000 processes")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_how_to_get_its_data(name, tmp_path):
    """The manifests that recipes name are those that `distill data prepare` makes, Libri-Light's apart."""
    elsewhere = "mini" in name or name.startswith("spiral_large")
    overrides = [] if load(name).kind == "teacher" else [f"data.root={tmp_path}"]
    report = check(load(name, overrides), tmp_path / "run", how_to_make=how_to_make)
    for line in report.problems:
        if line.what.startswith(("train", "dev", "noises")) and not elsewhere:
            assert line.fix.startswith("distill data prepare ")
            assert f" --out {tmp_path}/" in line.fix
    assert all(len(line) <= WIDTH for line in str(report).split("\n\n")[0].splitlines())


def test_noise_that_is_not_drawn_is_not_needed(mini_data):
    gone = "data.noises={musan: [/nowhere]}"
    assert check(mini(mini_data, "cdm=none", gone, "data.dev_noises={}")).ok
    assert not check(mini(mini_data, gone)).ok
    no_corpus = check(mini(mini_data, "distortion.additive=[gaussian]", "distortion.rir=true"))
    assert [line.what for line in no_corpus.problems] == ["noises.rir", "dev_noises.rir"]


def test_what_was_not_looked_at_is_said(mini_data, corpus):
    recipe = mini(mini_data, f"data.train=[{corpus}/some/all.jsonl.gz]")
    line = finding(check(recipe, sample=3), "train: all")
    assert (line.state, line.more) == ("ok", "3 of 10 files looked at, all exist")
    text = str(check(recipe, sample=3))
    assert "3 of 10 files looked at, all exist" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    for sample in (10, None):
        assert not finding(check(recipe, sample=sample), "train: all").more


def test_a_few_bad_files_are_a_note_and_many_a_problem(mini_data, corpus):
    (corpus / "audio" / "3.wav").unlink()
    speech = f"data.train=[{corpus}/some/all.jsonl.gz]"
    report = check(mini(mini_data, speech, "data.max_bad_fraction=0.1"))
    line = finding(report, "train: all")
    assert report.ok and (line.state, line.detail) == ("note", "1 bad of 10, 0.00 h")
    assert "3.wav: does not exist" in line.fix and "data.max_bad_fraction=0.1" in line.fix
    assert "3.wav: does not exist" in " ".join(str(report).split())
    report = check(mini(mini_data, speech, "data.max_bad_fraction=0.09"))
    assert finding(report, "train: all").state == "missing"


def test_a_corpus_that_was_not_all_there_is_said_again(mini_data, tmp_path):
    """What `distill data prepare` warned of."""
    out = tmp_path / "librispeech"
    audio = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "0"
    audio.mkdir(parents=True)
    soundfile.write(audio / "84-0-0000.flac", np.zeros(16_000), 16_000)
    (audio / "84-0.trans.txt").write_text("84-0-0000 WORDS\n")
    CORPORA["librispeech"](tmp_path, out, shards=str(tmp_path / "shards"))
    said = "only 1 of the 2703 published files existed when it was prepared"
    for name in ("dev-clean", "dev-clean.shards"):
        report = check(mini(mini_data, f"data.dev=[{out}/{name}.jsonl.gz]"))
        line = finding(report, f"dev: {name}")
        assert report.ok and (line.state, line.fix) == ("note", said)
        assert said in " ".join(str(report).split())
    (out / "prepared.json").write_text("[]")
    report = check(mini(mini_data, f"data.dev=[{out}/dev-clean.jsonl.gz]"))
    assert finding(report, "dev: dev-clean").state == "ok"


def test_other_speech_as_noise_is_the_speech_itself_unless_another_source_is_given(mini_data):
    drawn = "distortion.additive=[speech,none]"
    assert check(mini(mini_data, drawn, "data.noises={}", "data.dev_noises={}")).ok
    gone = check(mini(mini_data, drawn, "data.noises={speech: [/nowhere]}", "data.dev_noises={}"))
    assert [line.what for line in gone.problems] == ["noises.speech: nowhere"]
