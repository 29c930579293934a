"""What a sweep has still to do."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distill.downstream.evaluate import evaluate
from distill.downstream.identity import student_folder
from distill.downstream.speech import TaskSpeech
from distill.downstream.sweep import plan_sweep
from distill.errors import DataError, UsageError, UserError
from tests.downstream.sweeps import CONDITIONS, begin, finish, plan


def test_every_combination_is_a_job_in_its_students_folder(students, tmp_path):
    jobs = plan(students, tmp_path, ("ks", "ic"), features=("last", "layer:1"), seeds=(0, 1))
    assert len(jobs) == len({job.name for job in jobs}) == 2 * 2 * 2 * 2
    assert len({job.out for job in jobs}) == 2
    first = jobs[0]
    assert (first.config.task, first.config.features, first.config.seed) == ("ks", "last", 0)
    assert first.config.conditions == list(CONDITIONS)
    assert first.command() == [
        *(sys.executable, "-m", "distill", "evaluate", "ks", 'conditions=["clean", "2-dist"]'),
        *("--student", students[0], "--out", str(first.out)),
    ]
    assert "seed=1" in jobs[1].command() and "features=layer:1" in jobs[2].command()


def test_what_is_said_twice_is_done_once(students, tmp_path):
    assert len(plan([students[0]] * 2, tmp_path, ("ks", "ks"), ("clean", "clean"), seeds=(1, 1))) == 1


def test_finished_conditions_are_left_out(students, tmp_path):
    first, second = plan(students, tmp_path)
    finish(first)
    finish(second, conditions=["2-dist"])
    (left,) = plan(students, tmp_path)
    assert left == replace(second, config=replace(second.config, conditions=["clean"]))


def test_other_heads_and_damaged_results_do_not_count(students, tmp_path):
    job = plan(students[:1], tmp_path)[0]
    for changes in ({"seed": 7}, {"features": "layer:1"}, {"task": "ic"}):
        finish(replace(job, config=replace(job.config, **changes)))
    (job.out / "results" / "x.json").write_text("{")
    assert plan(students[:1], tmp_path) == [job]


def test_er_needs_all_its_folds(students, tmp_path):
    (job,) = plan(students[:1], tmp_path, ("er",))
    finish(job, folds=(1, 2, 3, 4))
    assert plan(students[:1], tmp_path, ("er",)) == [job]
    assert plan(students[:1], tmp_path, ("er",), words=["folds=[1,4]"]) == []
    finish(job, folds=(5,))
    assert plan(students[:1], tmp_path, ("er",)) == []


def test_asr_with_a_language_model_needs_both_results(students, tmp_path):
    (tmp_path / "4.bin").write_text("a language model")
    (tmp_path / "lexicon.txt").write_text("A A |")
    words = [f"asr:lm={tmp_path}/4.bin", f"asr:lexicon={tmp_path}/lexicon.txt"]
    finish(plan(students[:1], tmp_path, ("asr",))[0])  # it is named later: only that is missing
    (job,) = plan(students[:1], tmp_path, ("asr",), words=words)
    finish(job, lms=(True,))
    assert plan(students[:1], tmp_path, ("asr",), words=words) == []
    assert plan(students[:1], tmp_path, ("asr",)) == []
    with pytest.raises(UserError, match=r"-lm.json was made with other settings \(lexicons\):"):
        plan(students[:1], tmp_path, ("asr",), words=words[:1])
    (tmp_path / "4.bin").write_text("another language model")
    with pytest.raises(UserError, match=r"-lm.json was made with other settings \(lm\):"):
        plan(students[:1], tmp_path, ("asr",), words=words)
    (tmp_path / "4.bin").unlink()
    with pytest.raises(DataError, match="4.bin: no such file"):
        plan(students[:1], tmp_path, ("asr",), words=words)


def test_results_of_other_test_data_do_not_count_as_done(quick, students, tmp_path):
    data = quick("ks").data
    options = {"tasks": ["ks"], "conditions": ["clean"], "out": tmp_path / "out"}
    (job,) = plan_sweep(students[:1], data=data, **options)
    finish(job)
    (path,) = job.out.glob("results/*.json")
    result = json.loads(path.read_text())
    tested = TaskSpeech(job.config)
    result["settings"] |= tested.test_data("clean", None) | tested.test_audio("clean", None)
    path.write_text(json.dumps(result))
    assert plan_sweep(students[:1], data=data, **options) == []
    others = [f"sources.test={data}/speech_commands/dev.jsonl.gz"]
    shutil.copytree(f"{data}/speech_commands", tmp_path / "data" / "speech_commands")
    shutil.copy(f"{data}/speech_commands/dev.jsonl.gz", tmp_path / "data/speech_commands/test.jsonl.gz")
    with pytest.raises(UserError, match=r"clean.json was made with other settings \(test set\):"):
        plan_sweep(students[:1], data=str(tmp_path / "data"), **options)
    with pytest.raises(UserError, match=r"clean.json was made with other settings \(test set\):"):
        plan_sweep(students[:1], data=data, words=others, **options)
    with pytest.raises(DataError, match="none/speech_commands/test.jsonl.gz does not exist"):
        plan_sweep(students[:1], data=str(tmp_path / "none"), **options)


def test_conditions_and_words_of_one_task(students, tmp_path):
    conditions = ("clean", "test-other", "chime3", "chime3-ch5")
    words = ["workers=1", "asr:lm=4.bin", "label=C:clips"]
    ks, asr = plan(students[:1], tmp_path, ("ks", "asr"), conditions, words=words)
    assert ks.config.conditions == ["clean"]
    assert asr.config.conditions == list(conditions)
    assert (ks.config.workers, ks.config.label, ks.config.lm) == (1, "C:clips", None)
    assert (asr.config.workers, asr.config.label, asr.config.lm) == (1, "C:clips", "4.bin")
    (job,) = plan(students[:1], tmp_path, words=["ks:width=3", "width=2"])
    assert job.config.width == 3  # a task's own words win


def test_without_conditions_each_task_has_its_own(students, tmp_path):
    ks, asr = plan(students[:1], tmp_path, ("ks", "asr"), ())
    assert ks.config.conditions == ["clean", "2-dist", "fsd", "dns"]
    assert asr.config.conditions == ["clean", "2-dist", "fsd", "dns", "test-other", "chime3"]


def test_an_unknown_task(students, tmp_path):
    with pytest.raises(UsageError, match="unknown task 'kws'; there are ks, ic"):
        plan(students, tmp_path, ("kws",))


def test_a_student_trained_anew_is_evaluated_anew(students, tmp_path):
    before = student_folder(students[0])
    assert before.startswith("s1-")
    assert before == student_folder(students[0] + "/")
    assert before != student_folder(students[1])
    (Path(students[0]) / ".0123456789ab.student.safetensors").write_bytes(b"part of it")  # a killed process's
    assert student_folder(students[0]) == before
    (Path(students[0]) / "student.safetensors").write_bytes(b"other weights")
    assert student_folder(students[0]) != before
    before = student_folder(students[0])
    (Path(students[0]) / "preprocessor_config.json").write_text('{"do_normalize": true}')
    assert student_folder(students[0]) != before
    assert student_folder("facebook/hubert-base-ls960") == "facebook_hubert-base-ls960"
    assert student_folder(str(Path(students[0]) / "student.safetensors")).startswith("s1-student-")
    assert student_folder("../..") not in ("", "..")


@pytest.mark.parametrize("task", ["ks", "er"])
def test_a_head_that_was_begun_with_other_settings_is_refused(students, tmp_path, task):
    """Before anything else of the sweep is done."""
    (job,) = plan(students[:1], tmp_path, (task,), words=["width=8"])
    begin(job)
    assert plan(students[:1], tmp_path, (task,), words=["width=8"]) == [job]
    with pytest.raises(UserError, match=r"heads/\S+ was made with other settings \(width\):"):
        plan(students[:1], tmp_path, (task,), words=["width=9"])
    with pytest.raises(UserError, match=r"was made with other settings \(every_n_steps; width\)"):
        plan(students[:1], tmp_path, (task,), words=["every_n_steps=7"])
    named = job.out / "heads" / job.config.head_name(job.config.effective_folds[0]) / "head.json"
    named.write_text(named.read_text().replace(f'"lr": {job.config.effective_lr}', '"lr": 0.1'))
    with pytest.raises(UserError, match=r"was made with other settings \(lr\)"):
        plan(students[:1], tmp_path, (task,), words=["width=8"])


def test_the_same_in_other_words(students, tmp_path):
    """Another order, a default written out, what changes no score, and a longer training."""
    (job,) = plan(students[:1], tmp_path, words=["lr=0.1", "batch_size=4", "cache=float32"])
    begin(job)
    for words in (["batch_size=4", "lr=0.1"], ["lr=1e-1", "batch_size=4", "crop_s=1", "trainer.devices=2"]):
        (again,) = plan(students[:1], tmp_path, words=words)
        assert again.config.head_settings == job.config.head_settings
    assert plan(students[:1], tmp_path, words=["lr=0.1", "batch_size=4", "steps=300000"])
    finish(job)
    assert plan(students[:1], tmp_path, words=["steps=200000", "batch_size=4", "lr=0.1", "workers=0"]) == []
    with pytest.raises(UserError, match=r"other settings \(batch_size\)"):
        plan(students[:1], tmp_path, words=["lr=0.1"])


def test_students_that_are_not_there_are_named_before_anything_starts(students, tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path}/s9, {tmp_path}/runs/s2: no such checkpoint; name"):
        plan([students[0], f"{tmp_path}/s9", f"{tmp_path}/runs/s2"], tmp_path)
    assert len(plan(["organisation/model", "HUBERT_BASE", "random:mini"], tmp_path)) == 3


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("task=ic", "task from --task"),
        ("data=other", "data from --data"),
        ("conditions=[clean]", "conditions from --condition"),
        ("features=layer:1", "features from --features"),
        ("seed=3", "seed from --seed"),
        ("asr:seed=3", "seed from --seed"),
        ("noises.musan=[a.tsv]", "noises from --noise"),
    ],
)
def test_what_the_plan_says_is_no_word(students, tmp_path, word, option):
    with pytest.raises(UsageError) as error:
        plan(students, tmp_path, words=["lr=0.1", word])
    assert str(error.value) == f"{word}: a sweep takes {option}, use that"


def test_results_of_other_settings_do_not_count_as_done(students, tmp_path):
    noise = {"noises": {"musan": ["a.tsv", "b.tsv"]}}
    (job,) = plan(students[:1], tmp_path, words=["lr=0.1", "width=8"], **noise)
    assert 'noises.musan=["a.tsv", "b.tsv"]' in job.command()
    finish(job)  # as `distill evaluate` does, which keeps no words
    assert plan(students[:1], tmp_path, words=["width=8", "lr=0.1"], **noise) == []
    assert len(plan(students[:1], tmp_path, words=["lr=0.1", "width=8", "steps=9"], **noise)) == 1
    with pytest.raises(UserError, match=r"(clean|2-dist).json was made with other settings \(width\):"):
        plan(students[:1], tmp_path, words=["lr=0.1", "width=9"], **noise)
    with pytest.raises(UserError, match=r"was made with other settings \(width; noises\)"):
        plan(students[:1], tmp_path, words=["lr=0.1", "width=9"])


def test_learning_rates_are_heads_of_their_own(students, tmp_path):
    """Neither heads nor results have the same names; each is done or not by itself."""
    rates = {"rates": (1e-3, 1e-4, 1e-3, 0.00010000001)}  # the first is the task's own
    jobs = plan(students[:1], tmp_path, **rates)
    assert [job.config.lr for job in jobs] == [1e-3, 1e-4, 0.00010000001]
    heads = ["ks-last-seed0", "ks-last-seed0-lr0.0001", "ks-last-seed0-lr0.00010000001"]
    assert [job.head for job in jobs] == heads
    assert [job.config.head_settings["lr"] for job in jobs] == [job.config.lr for job in jobs]
    assert "lr=0.0001" in jobs[1].command()
    assert jobs[1].config.result_name("fsd", None, lm=False) == "ks-last-seed0-lr0.0001-fsd.json"
    for job in jobs:
        begin(job)
    finish(jobs[1])
    assert plan(students[:1], tmp_path, **rates) == [jobs[0], jobs[2]]
    finish(jobs[0])
    assert plan(students[:1], tmp_path) == []
    assert [job.config.lr for job in plan(students[:1], tmp_path, rates=(1e-2, 1e-4))] == [1e-2]
    for word in ("lr=0.1", "ks:lr=0.1"):
        with pytest.raises(UsageError, match=f"^{word}: a sweep takes lr from --lr, use that$"):
            plan(students, tmp_path, words=[word], **rates)


@pytest.mark.slow
def test_a_sweep_does_what_has_no_result_of_its_protocol(quick, student, task_data, tmp_path):
    words = ["steps=1", "every_n_steps=1", "workers=0", "width=16", "trainer.accelerator=cpu"]
    planned = {"data": str(task_data), "out": tmp_path}
    (job,) = plan_sweep([str(student)], ["ic"], ["clean"], words=words, **planned)
    evaluate(student, job.config, job.out)
    assert not plan_sweep([str(student)], ["ic"], ["clean"], words=words, **planned)
    (job,) = plan_sweep([str(student)], ["ic"], ["clean"], words=[*words, "protocol=s3prl"], **planned)
    assert job.config.conditions == ["clean"] and job.head == "ic-last-seed0-s3prl"
    assert "protocol=s3prl" in job.command()


def test_a_sweep_does_what_has_no_result_of_its_variant(quick, student, task_data, tmp_path):
    words = ["steps=1", "every_n_steps=1", "workers=0", "width=16", "trainer.accelerator=cpu"]
    planned = {"data": str(task_data), "out": tmp_path}
    (job,) = plan_sweep([str(student)], ["ic"], ["clean", "fsd"], words=words, **planned)
    evaluate(student, job.config, job.out)
    (job,) = plan_sweep(
        [str(student)], ["ic"], ["clean", "fsd"], words=[*words, "variant=authors"], **planned
    )
    assert job.config.conditions == ["fsd"]


def test_a_sweep_of_several_models_has_no_row(student, task_data, tmp_path):
    planned = {"data": str(task_data), "out": tmp_path}
    with pytest.raises(UsageError, match="row=... puts one model into a row"):
        plan_sweep([str(student), "org/other"], ["ic"], ["clean"], words=["ic:row=S1"], **planned)


@pytest.mark.parametrize("content", ["{", "[]", '{"labels": 5}', '{"checkpoint": ["a"]}', "[" * 9999, "\0"])
def test_a_damaged_record_of_a_head_is_named(students, tmp_path, content):
    (job,) = plan(students[:1], tmp_path)
    begin(job)
    (record,) = job.out.glob("heads/*/head.json")
    record.write_text(content)
    with pytest.raises(UserError, match=rf"^{record} ") as caught:
        plan(students[:1], tmp_path)
    assert str(caught.value).isprintable()


def test_a_result_without_settings_is_named(students, tmp_path):
    (job,) = plan(students[:1], tmp_path)
    with pytest.raises(UserError, match="a.json is damaged"):
        TaskSpeech(job.config).check_score([], "clean", None, lm=False, where="a.json")  # pyright: ignore
