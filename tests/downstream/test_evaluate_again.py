"""An evaluation that is asked for again: what is the same is kept, what is not is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse.utils import fastcopy

from distill.data.sources import open_cuts
from distill.data_prep.manifests import write_cuts
from distill.downstream.evaluate import evaluate
from distill.downstream.labels import CHARACTERS, WORD_END
from distill.downstream.sweep import plan_sweep
from distill.downstream.tables import make_tables
from distill.downstream.truths import text_of
from distill.errors import DataError, UserError
from distill.training.locking import RunLock

WORDS = ("steps=1", "every_n_steps=1", "width=16")
"""Those of `quick` that a head depends on."""


def read(paths: list[Path]) -> list[dict]:
    return [json.loads(path.read_text()) for path in paths]


class Says:
    """Stands in for a language model: always says the same."""

    def __init__(self, path, symbols, *, word_end, lexicons):
        assert symbols == CHARACTERS and word_end == WORD_END
        self.words = Path(path).read_text().split()

    def __call__(self, log_probs):
        return self.words


@pytest.fixture
def language_models(tmp_path, monkeypatch) -> dict[str, str]:
    """Words of an evaluation: two models, two lexicons."""
    monkeypatch.setattr("distill.downstream.evaluate.LanguageModelDecoder", Says)
    for name in ("a.arpa", "b.arpa", "a.txt", "b.txt"):
        (tmp_path / name).write_text(f"THE {name}")
    return {name: str(tmp_path / name) for name in ("a.arpa", "b.arpa", "a.txt", "b.txt")}


def test_an_evaluation_without_language_model_is_decoded_with_one_later(
    quick, student, tmp_path, language_models
):
    options = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1}
    (plain,) = evaluate(student, quick("asr", **options), tmp_path / "out")
    (head,) = tmp_path.glob("out/heads/*/checkpoints/last.ckpt")
    before = head.stat().st_mtime_ns, plain.stat().st_mtime_ns
    lm = {"lm": language_models["a.arpa"], "lexicon": language_models["a.txt"]}
    both = evaluate(student, quick("asr", **lm, **options), tmp_path / "out")
    assert (head.stat().st_mtime_ns, plain.stat().st_mtime_ns) == before
    assert [result["lm"] for result in read(both)] == [False, True]
    assert "lm" not in read(both)[0]["settings"] and "lexicons" not in read(both)[0]["settings"]
    assert read(both)[1]["settings"]["lm"].startswith("a.arpa ")
    assert evaluate(student, quick("asr", **lm, **options), tmp_path / "out") == both
    assert evaluate(student, quick("asr", **options), tmp_path / "out") == [plain]


@pytest.mark.parametrize(
    ("change", "what"),
    [({"lm": "b.arpa"}, "lm"), ({"lexicon": "b.txt"}, "lexicons"), ({"lexicon": None}, "lexicons")],
)
def test_a_score_with_another_language_model_is_refused(
    quick, student, tmp_path, language_models, change, what
):
    options = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1}
    files = {"lm": "a.arpa", "lexicon": "a.txt"}
    first, second = (
        quick("asr", **{key: name and language_models[name] for key, name in named.items()}, **options)
        for named in (files, files | change)
    )
    evaluate(student, first, tmp_path / "out")
    with pytest.raises(UserError, match=rf"clean-lm.json was made with other settings \({what}\):"):
        evaluate(student, second, tmp_path / "out")
    (path,) = tmp_path.glob("out/results/*-lm.json")  # one of an earlier version does not say
    old = read([path])[0]
    del old["settings"]["lm"], old["settings"]["lexicons"]
    path.write_text(json.dumps(old))
    assert path in evaluate(student, second, tmp_path / "out")
    Path(language_models["a.arpa"]).unlink()
    with pytest.raises(DataError, match="a.arpa: no such file"):
        evaluate(student, first, tmp_path / "out")


def test_a_score_of_other_test_data_is_refused(quick, student, task_data, tmp_path):
    """Whatever the folder is called: the utterances, their labels and the noise count."""
    options = {"conditions": ["clean", "dns"], "steps": 1, "every_n_steps": 1}
    done = evaluate(student, quick("ks", **options), tmp_path / "out")
    with pytest.raises(DataError, match="none/speech_commands/train.jsonl.gz, .* do not exist"):
        evaluate(student, quick("ks", data=str(tmp_path / "none"), **options), tmp_path / "out")
    data, manifest = tmp_path / "data", tmp_path / "data" / "speech_commands" / "test.jsonl.gz"
    for corpus in ("speech_commands", "dns"):
        shutil.copytree(task_data / corpus, data / corpus)
    moved = quick("ks", data=str(data), **options)
    assert evaluate(student, moved, tmp_path / "out") == done
    cuts = list(open_cuts(str(manifest)))
    changes = {
        "fewer": cuts[1:],
        "another label": [fastcopy(cuts[0], custom={"label": "yes"}), *cuts[1:]],
        "another length": [cuts[0].truncate(duration=0.5, preserve_id=True), *cuts[1:]],
    }
    assert cuts[0].custom["label"] != "yes" and cuts[0].duration > 0.5
    for changed in changes.values():
        write_cuts(changed, manifest)
        with pytest.raises(UserError, match=r"clean.json was made with other settings \(test set\):"):
            evaluate(student, moved, tmp_path / "out")
    write_cuts(cuts[::-1], manifest)
    write_cuts(list(open_cuts(str(task_data / "dns/noise.jsonl.gz")))[1:], data / "dns" / "noise.jsonl.gz")
    with pytest.raises(UserError, match=r"dns.json was made with other settings \(noise\):"):
        evaluate(student, moved, tmp_path / "out")


@pytest.fixture
def words(tmp_path) -> dict[str, str]:
    """Sources: two classes, train, dev and test in a folder of their own, and noise."""
    generator = np.random.default_rng(0)
    for split, count in {"train": 6, "dev": 4, "test": 4, "noise": 2}.items():
        folder = tmp_path / "words" / split
        folder.mkdir(parents=True)
        rows = ["path\tlabel"]
        for index in range(count):
            soundfile.write(folder / f"{index}.wav", 0.1 * generator.standard_normal(4000), 16_000)
            rows.append(f"{index}.wav\t{index % 2}")
        (folder / "all.tsv").write_text("\n".join(rows) + "\n")
    return {split: f"{tmp_path}/words/{split}/all.tsv" for split in ("train", "dev", "test", "noise")}


def of_words(quick, words: dict[str, str], *, conditions=("clean", "fsd"), **options):
    sources = {split: words[split] for split in ("train", "dev", "test")}
    options = {
        "steps": 1,
        "every_n_steps": 1,
        "sources": sources,
        "noises": {"fsd": [words["noise"]]},
    } | options
    return quick("ks", conditions=list(conditions), **options)


def reverse(source: str, file: str = "1.wav") -> None:
    """Other samples in a file of the same length, under the same name, class, and time of change."""
    path = Path(source).parent / file
    state = path.stat()
    wave, rate = soundfile.read(path)
    soundfile.write(path, wave[::-1], rate)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("split", ["train", "dev", "test", "noise"])
def test_what_is_done_is_done_for_the_audio_that_it_was_done_for(quick, student, words, tmp_path, split):
    """The same files, ids, lengths and classes with other samples; and a copy of them elsewhere."""
    done = evaluate(student, of_words(quick, words), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    shutil.copytree(tmp_path / "words", tmp_path / "moved")
    moved = {name: source.replace("/words/", "/moved/") for name, source in words.items()}
    assert evaluate(student, of_words(quick, moved), tmp_path / "out") == done
    assert before == {path: path.stat().st_mtime_ns for path in before}
    reverse(moved[split])
    changed = words | {split: moved[split]}
    what = split if split in ("test", "noise") else "training"
    with pytest.raises(UserError, match=rf"json was made with other settings \({what} audio\):"):
        evaluate(student, of_words(quick, changed), tmp_path / "out")
    if what == "training":  # nor is the head tested again
        with pytest.raises(UserError, match=r"heads/ks-last-seed0 was made with other settings \(training"):
            evaluate(student, of_words(quick, changed, conditions=["pitch"]), tmp_path / "out")
        options = {"data": "", "out": tmp_path / "sweep"}
        given = [f"sources.{name}={changed[name]}" for name in ("train", "dev", "test")]
        (job,) = plan_sweep([str(student)], ["ks"], ["clean"], words=given, **options)
        shutil.copytree(tmp_path / "out" / "heads", job.out / "heads")
        with pytest.raises(UserError, match=r"was made with other settings \(training audio\):"):
            plan_sweep([str(student)], ["ks"], ["clean"], words=[*given, *WORDS], **options)


def test_training_and_dev_speech_that_change_places_make_another_head(quick, student, words, tmp_path):
    (Path(words["dev"]).parent / "all.tsv").write_text(
        "path\tlabel\n" + "".join(f"d/{n}.wav\t{n % 2}\n" for n in range(4))
    )
    (Path(words["dev"]).parent / "d").mkdir()
    for number in range(4):
        (Path(words["dev"]).parent / f"{number}.wav").rename(
            Path(words["dev"]).parent / "d" / f"{number}.wav"
        )
    evaluate(student, of_words(quick, words, conditions=["clean"]), tmp_path / "out")
    swapped = words | {"train": words["dev"], "dev": words["train"]}
    with pytest.raises(UserError, match=r"was made with other settings \(dev data; training audio\)"):
        evaluate(student, of_words(quick, swapped, conditions=["pitch"]), tmp_path / "out")


def test_scores_and_heads_of_an_earlier_version_are_kept(quick, student, tmp_path):
    config = quick("ic", conditions=["clean"])
    (path,) = evaluate(student, config, tmp_path)
    result = read([path])[0]
    result["settings"] = {"lr": result["settings"]["lr"], "lexicon": None}
    path.write_text(json.dumps(result))
    (head,) = tmp_path.glob("heads/*/head.json")
    about = json.loads(head.read_text())
    del about["every_n_steps"], about["training audio"]
    head.write_text(json.dumps(about))
    assert evaluate(student, config, tmp_path) == [path]
    assert read([path])[0] == result
    paths = evaluate(student, quick("ic", conditions=["clean", "pitch"]), tmp_path)
    assert len(paths) == 2  # what such a head was trained on is not known, and not claimed
    assert "training audio" not in read(paths)[1]["settings"] and "test audio" in read(paths)[1]["settings"]


def test_words_of_phoneme_recognition_are_looked_up_in_several_lexicons(quick, student, task_data, tmp_path):
    """Those that are in none are listed, all of them, before anything else is done."""
    libri = {name: f"{task_data}/librispeech/{name}.jsonl.gz" for name in ("dev-clean", "test-clean")}
    sources = libri | {"train-clean-100": f"{task_data}/librispeech/train-clean-100.jsonl.gz"}
    texts = [text_of(cut) for source in sources.values() for cut in open_cuts(source)]
    words = sorted({word for text in texts for word in text.split()})
    for name, some in {"a.txt": words[:3], "b.txt": words[2:]}.items():
        (tmp_path / name).write_text("".join(f"{word} {name[0].upper()} {word[0]}\n" for word in some))
    options = {"sources": sources, "conditions": ["clean"], "steps": 1, "every_n_steps": 1}
    a, b = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=rf"{a}: {len(words) - 3} of {len(words)} words .* are missing: "):
        evaluate(student, quick("pr", lexicon=a, **options), out)
    assert (out / "words_without_phones.txt").read_text().split() == words[3:]
    assert [path.name for path in out.iterdir()] == ["words_without_phones.txt"]
    (path,) = evaluate(student, quick("pr", lexicon=[a, b], **options), out)
    assert evaluate(student, quick("pr", lexicon=f"{a},{b}", **options), out) == [path]
    with pytest.raises(UserError, match=r"clean.json was made with other settings \(lexicons\):"):
        evaluate(student, quick("pr", lexicon=[b, a], **options), out)


def test_heads_of_two_learning_rates_live_in_one_folder_and_dev_chooses(student, quick, tmp_path):
    """Nothing of one is taken for the other's: heads, results and what the table shows."""
    kept = {}
    for lr in (None, 0.5):
        config = quick("ks", conditions=["clean"], lr=lr)
        (path,) = evaluate(student, config, tmp_path)
        kept[path.name] = json.loads(path.read_text())
    assert kept.keys() == {"ks-last-seed0-clean.json", "ks-last-seed0-lr0.5-clean.json"}
    assert [result["settings"]["lr"] for result in kept.values()] == [1e-3, 0.5]
    assert {path.name for path in (tmp_path / "heads").iterdir()} == {"ks-last-seed0", "ks-last-seed0-lr0.5"}
    best = max(kept.values(), key=lambda result: result["dev"])
    text = make_tables([tmp_path], measured=True)
    assert f"lr {best['settings']['lr']:g}, chosen on dev ({best['dev']:.2f}; " in text
    assert f" {best['value']:.2f} " in text


def test_a_moved_head_keeps_its_best_weights(quick, student, tmp_path):
    """No validation is as good as the best that is there, which says so itself."""
    options = {"conditions": ["clean"], "every_n_steps": 1}
    evaluate(student, quick("ks", steps=1, **options), tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    (best,) = (tmp_path / "moved").glob("heads/*/checkpoints/best.ckpt")
    checkpoint = torch.load(best, weights_only=True)
    (state,) = (s for key, s in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    state["best_model_score"] = torch.tensor(-1.0)
    torch.save(checkpoint, best)
    kept = best.read_bytes()
    (result,) = evaluate(student, quick("ks", steps=3, **options), tmp_path / "moved")
    assert json.loads(result.read_text())["head_steps"] == 3
    assert best.read_bytes() == kept


def test_two_evaluations_do_not_train_one_head(quick, student, tmp_path):
    config = quick("ks", steps=1, every_n_steps=1, conditions=["clean"])
    evaluate(student, config, tmp_path)
    (head,) = tmp_path.glob("heads/*")
    with RunLock(head):
        evaluate(student, config, tmp_path)  # it is trained
        (head / "finished.json").unlink()
        (tmp_path / "results" / f"{head.name}-clean.json").unlink()
        with pytest.raises(UserError, match="is being trained by process"):
            evaluate(student, config, tmp_path)
