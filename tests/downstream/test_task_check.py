"""What `distill data check TASK` says: speech, sizes, labels, noise, licences, all problems at once."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from distill.cli import main
from distill.data_prep import PUBLISHED
from distill.downstream.options import EvaluationConfig
from distill.downstream.paper import TEST_UTTERANCES
from distill.downstream.task_check import check_task
from distill.downstream.tasks import TASKS
from distill.preflight.findings import WIDTH, CheckReport, Finding


def finding(report: CheckReport, what: str) -> Finding:
    """The one line whose first column begins like that."""
    (found,) = [line for line in report.findings if line.what.startswith(what)]
    return found


@pytest.fixture
def data(task_data, tmp_path) -> Path:
    """Manifests that a test may spoil; the audio stays where it is."""
    for corpus in ("speech_commands", "musan", "wham", "fsd50k", "dns"):
        shutil.copytree(task_data / corpus, tmp_path / "data" / corpus)
    return tmp_path / "data"


@pytest.mark.parametrize("task", [name for name in TASKS if name != "pr"])
def test_a_task_of_which_all_is_there(task_data, tmp_path, task):
    report = check_task(EvaluationConfig(task=task, data=str(task_data)), tmp_path / "out")
    assert report.ok and str(report).endswith(f"{task}: ready")
    sizes = [line for line in report.findings if line.what.startswith("size: ")]
    assert len(sizes) == {"er": 5, "asr": 3}.get(task, 1)
    assert all(line.state == "note" and "scores are not comparable" in line.fix for line in sizes)
    noises = {line.what for line in report.findings if line.what.startswith("noise.")}
    wanted = {"musan: all", "wham: tt", "fsd: test", "dns: noise", "rir: rir"}
    assert noises == {f"noise.{name}" for name in wanted}
    licences = {line.what.removeprefix("licence: "): line.more for line in report.findings if line.more}
    assert {"musan", "wham", "fsd50k", "dns", TASKS[task].corpus} <= licences.keys()
    assert all(text == PUBLISHED[name].licence for name, text in licences.items())
    assert not (tmp_path / "out").exists()


def test_the_published_size_is_no_note(task_data, tmp_path, monkeypatch):
    config = EvaluationConfig(task="ks", data=str(task_data), conditions=["clean"])
    count = int(finding(check_task(config, tmp_path), "size: ").detail.split()[0])
    monkeypatch.setitem(TEST_UTTERANCES, "ks", {"": count})
    assert finding(check_task(config, tmp_path), "size: test set").state == "ok"


def test_pr_needs_phones_for_all_words(quick, task_data, tmp_path):
    with_phones = quick("pr", conditions=["clean"])
    assert finding(check_task(with_phones, tmp_path), "labels").detail.endswith(" symbols")
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("THE DH AH\n")
    config = EvaluationConfig(task="pr", data=str(task_data), conditions=["clean"], lexicon=str(lexicon))
    report = check_task(config, tmp_path / "out")
    assert "words of the transcripts are missing" in finding(report, "labels").problem
    lexicon.unlink()
    assert "lexicon.txt" in finding(check_task(config, tmp_path), "lexicon: ").problem


def test_all_problems_at_once_with_the_commands_that_solve_them(data, capsys, tmp_path):
    (data / "fsd50k" / "test.jsonl.gz").unlink()
    (data / "speech_commands" / "dev.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "file").touch()
    words = ["data", "check", "ks", f"data={data}", "--out", str(tmp_path / "file" / "out")]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "distill: ks cannot be evaluated yet: see the table above" in err
    assert "ks: 3 problems" in out
    assert f"distill data prepare fsd50k --root FOLDER --out {data}/fsd50k" in out
    assert "dev.jsonl.gz" in out and "cannot be written" in out
    table = out.split("ks: 3 problems")[0]
    assert all(len(line) <= WIDTH for line in table.splitlines())
    assert main(["data", "check", "ks", f"data={data}", "conditions=[2-dist]"]) == 1
    assert "fsd" not in capsys.readouterr().out


def test_audio_of_a_test_set_or_noise_that_is_missing(task_data, data, tmp_path):
    """One file of many is a problem: a test set is whole, or it is another one."""
    lost = tmp_path / "lost"
    for corpus, split in (("speech_commands", "test"), ("fsd50k", "test")):
        path = data / corpus / f"{split}.jsonl.gz"
        first, *others = gzip.decompress(path.read_bytes()).decode().splitlines()
        cut = json.loads(first)
        cut["recording"]["sources"][0]["source"] = str(lost / f"{corpus}.wav")
        path.write_bytes(gzip.compress("\n".join([json.dumps(cut), *others]).encode()))
    report = check_task(EvaluationConfig(task="ks", data=str(data)), tmp_path / "out")
    assert {line.what for line in report.problems} == {"test: test", "noise.fsd: test"}
    assert f"{lost}/fsd50k.wav: does not exist" in finding(report, "noise.fsd").problem


def test_labels_that_training_does_not_have(data, tmp_path):
    config = EvaluationConfig(
        task="ks", data=str(data), sources={"train": str(data / "speech_commands/test.jsonl.gz?part=0-0.2")}
    )
    found = finding(check_task(config, tmp_path), "labels")
    assert found.state == "wrong" and "does not occur in the training speech" in found.problem


def test_own_speech_has_no_known_licence(task_data, tmp_path):
    own = tmp_path / "mine.jsonl.gz"
    shutil.copy(task_data / "speech_commands" / "test.jsonl.gz", own)
    config = EvaluationConfig(
        task="ks", data=str(task_data), sources={"test": str(own)}, conditions=["clean"]
    )
    report = check_task(config, tmp_path)
    assert report.ok
    assert "of other sources: not known here" in str(report)


def test_words_are_checked_as_of_evaluate(capsys):
    assert main(["data", "check", "ks", "condition=clean"]) == 2
    assert "condition" in capsys.readouterr().err
