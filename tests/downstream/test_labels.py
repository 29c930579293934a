"""Targets and error counts, against torchaudio's, s3prl's and counting by hand."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import torchaudio.functional
from hypothesis import given
from hypothesis import strategies as st
from lhotse import MonoCut, SupervisionSegment
from lhotse.supervision import AlignmentItem

from distill.downstream.labels import (
    CHARACTERS,
    ClassLabels,
    Outcome,
    TokenLabels,
    make_labels,
    targets_of,
)
from distill.downstream.options import EvaluationConfig
from distill.downstream.truths import check_words, phones_of, text_of
from distill.errors import DataError
from distill.hubert import HubertConfig

numbers = st.lists(st.integers(1, 4), max_size=12)


def cut(name="u", text=None, phones=None, **custom) -> MonoCut:
    supervision = SupervisionSegment(id=name, recording_id=name, start=0, duration=1, text=text)
    if phones:
        supervision.alignment = {"phone": [AlignmentItem(p, 0.1 * i, 0.1) for i, p in enumerate(phones)]}
    return MonoCut(name, 0, 1, 0, supervisions=[supervision], custom=custom)


def log_probs_of(numbers: list[int], symbols: int) -> torch.Tensor:
    """CTC output that says these symbols: each twice, blanks between them."""
    path = [0]
    for number in numbers:
        path += [number, number, 0]
    return torch.nn.functional.one_hot(torch.tensor(path), symbols).float().mul(20).log_softmax(-1)


def outcomes(labels: TokenLabels, said: list[str], truth: list[MonoCut]) -> list[Outcome]:
    rows = [log_probs_of(labels.targets(cut(text=text)), 1 + len(labels.symbols)) for text in said]
    frames = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0.0)
    return labels.outcomes(None, padded, frames, [labels.targets(c) for c in truth])  # pyright: ignore


@given(numbers, numbers)
def test_errors_are_torchaudios_edit_distance(said, truth):
    labels = TokenLabels(("a", "bb", "AH0", "<unk>"), "phones")
    rows = log_probs_of(said, 5)
    (found,) = labels.outcomes(None, rows[None], torch.tensor([len(rows)]), [truth])  # pyright: ignore
    assert found[:2] == (torchaudio.functional.edit_distance(said, truth), len(truth))


SAID = ["THE CAT SAT", "HELLO WORLD", "IT'S", "A B C D"]
TRUE = ["THE CAT SAT", "HELLO OLD WORLD", "ITS FINE", "B D"]


def test_word_errors_by_hand():
    labels = make_labels([], EvaluationConfig(task="asr"))
    assert isinstance(labels, TokenLabels) and labels.symbols == CHARACTERS and len(CHARACTERS) == 28
    found = outcomes(labels, SAID, [cut(text=text) for text in TRUE])
    assert [outcome[:2] for outcome in found] == [(0, 3), (1, 3), (2, 2), (2, 2)]
    assert [(outcome.truth, outcome.prediction) for outcome in found] == list(zip(TRUE, SAID, strict=True))


def test_word_and_phoneme_error_rates_are_s3prls():
    pytest.importorskip("s3prl")
    pytest.importorskip("editdistance")
    spec = importlib.util.find_spec("s3prl")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "downstream" / "ctc" / "metric.py"
    loaded = importlib.util.spec_from_file_location("their_metric", path)
    assert loaded is not None and loaded.loader is not None
    theirs = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(theirs)
    labels = make_labels([], EvaluationConfig(task="asr"))
    assert isinstance(labels, TokenLabels)
    found = outcomes(labels, SAID, [cut(text=text) for text in TRUE])
    rate = sum(one.errors for one in found) / sum(one.total for one in found)
    assert rate == pytest.approx(theirs.wer(hypothesis=SAID, groundtruth=TRUE))
    phones = TokenLabels(("a", "b", "c", "d"), "phones")
    said, truth = [1, 2, 3, 3, 4], [1, 3, 4, 4]
    rows = log_probs_of(said, 5)
    ((errors, total, _, _),) = phones.outcomes(None, rows[None], torch.tensor([len(rows)]), [truth])  # pyright: ignore
    spelled = [" ".join("abcd"[n - 1] for n in numbers) for numbers in (said, truth)]
    assert errors / total == pytest.approx(theirs.per(hypothesis=spelled[:1], groundtruth=spelled[1:]))


def test_transcripts_become_characters():
    labels = TokenLabels(CHARACTERS, "characters")
    numbers = labels.targets(cut(text="it's  Me"))
    assert "".join(CHARACTERS[n - 1] for n in numbers) == "IT'S|ME|"
    assert labels.units(numbers) == ["IT'S", "ME"]
    with pytest.raises(DataError, match="u: '-' in its transcript is none of"):
        labels.targets(cut(text="re-do"))
    with pytest.raises(DataError, match="u has no transcript"):
        labels.targets(cut())


def test_an_intent_is_right_if_all_its_slots_are():
    cuts = [cut(label="on|light|hall"), cut(label="off|heat|hall"), cut(label="on|heat|none")]
    labels = ClassLabels.of(cuts, "label")
    assert labels.slots == (("off", "on"), ("heat", "light"), ("hall", "none"))
    assert [labels.targets(c) for c in cuts] == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    head = labels.head(8, 4)
    logits = torch.zeros(2, 6)
    logits[:, [1, 3, 4]] = 1.0  # on, light, hall
    found = labels.outcomes(head, logits, torch.ones(2), [[1, 1, 0], [1, 1, 1]])
    assert found == [(0, 1, "on|light|hall", "on|light|hall"), (1, 1, "on|light|none", "on|light|hall")]
    with pytest.raises(DataError, match=r"u: its label 'on\|tv\|hall' does not occur in the training speech"):
        labels.targets(cut(label="on|tv|hall"))
    with pytest.raises(DataError, match="u has no 'label': name the field or column"):
        labels.targets(cut())
    with pytest.raises(DataError, match="different numbers of slots"):
        ClassLabels.of([*cuts, cut(label="on")], "label")


def test_phonemes_come_from_alignment_field_or_lexicon(tmp_path):
    (tmp_path / "lexicon.txt").write_text("hi HH AY1\nhi HH IH1\nho\tHH OW1\n\n")
    config = EvaluationConfig(task="pr", lexicon=str(tmp_path / "lexicon.txt"))
    three = [cut(phones=["sil", "ah"]), cut(phones="") if False else cut(text="Hi ho")]
    three.append(MonoCut("v", 0, 1, 0, custom={"phones": "b d"}))
    labels = make_labels(three, config)
    assert isinstance(labels, TokenLabels)
    assert labels.symbols == ("AY1", "HH", "OW1", "ah", "b", "d", "sil", "<unk>")
    said = [[labels.symbols[n - 1] for n in labels.targets(c)] for c in three]
    assert said == [["sil", "ah"], ["HH", "AY1", "HH", "OW1"], ["b", "d"]]
    assert labels.targets(cut(phones=["zh"])) == [8]
    with pytest.raises(DataError, match="u: the lexicon does not have HEY, YOU: add what is missing"):
        labels.targets(cut(text="hey you hi"))
    with pytest.raises(DataError, match="u has no phones: name a lexicon"):
        make_labels([cut(text="hi")], EvaluationConfig(task="pr"))


def test_later_lexicons_fill_gaps(tmp_path):
    (tmp_path / "a.txt").write_text("hi HH AY1\n")
    (tmp_path / "b.txt").write_text("HI HH IH1\nHO HH OW1\n")
    for files in (f"{tmp_path}/a.txt,{tmp_path}/b.txt", [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]):
        labels = make_labels([cut(text="hi ho")], EvaluationConfig(task="pr", lexicon=files))
        assert isinstance(labels, TokenLabels) and labels.pronunciations is not None
        assert labels.pronunciations == {"HI": ["HH", "AY1"], "HO": ["HH", "OW1"]}


def test_all_words_that_a_lexicon_lacks_are_named_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("hi HH AY1\n")
    config = EvaluationConfig(task="pr", lexicon=str(tmp_path / "a.txt"))
    letters = "ABCDEFGHIJKL"
    cuts = [cut(text=f"hi {letter}".lower()) for letter in letters] + [cut(text="zz", phones=["z"])]
    with pytest.raises(DataError) as error:
        check_words(cuts, config, tmp_path / "new" / "missing.txt")
    said = str(error.value)
    assert "a.txt: 12 of 13 words of the transcripts are missing: A, B, C, D, E, F, G, H, I, J, ...;" in said
    assert f"all are in {tmp_path}/new/missing.txt" in said and f"lexicon={tmp_path}/a.txt,FILE" in said
    assert (tmp_path / "new" / "missing.txt").read_text().split() == list(letters)
    check_words(cuts[-1:], config, tmp_path / "no.txt")
    check_words([cut(text="Hi")], config, tmp_path / "no.txt")
    assert not (tmp_path / "no.txt").exists()


@pytest.mark.parametrize("label", ["", " ", None, "on||hall", "|"])
def test_an_empty_label_is_no_class(label):
    empty = cut("v", label=label)
    with pytest.raises(DataError, match="v: its label is empty .*: fill it in, or leave the row out"):
        ClassLabels.of([cut(label="on|light|hall"), empty], "label")
    with pytest.raises(DataError, match="v: its label is empty"):
        ClassLabels((("on", ""), ("",), ("hall", "")), "label").targets(empty)


def test_nan_is_an_empty_cell_everywhere():
    """As pandas writes one into JSON, and json reads it."""
    nan = float("nan")
    with pytest.raises(DataError, match=r"v: its label is empty \(''\)"):
        ClassLabels.of([cut("v", label=nan)], "label")
    with pytest.raises(DataError, match="v has no transcript"):
        text_of(MonoCut("v", 0, 1, 0, custom={"text": nan}))
    with pytest.raises(DataError, match="v has no phones: name a lexicon"):
        phones_of(MonoCut("v", 0, 1, 0, custom={"phones": nan}), None)


@pytest.mark.parametrize("value", [["on", "light"], {"action": "on"}])
def test_a_list_is_no_class_and_no_text(value):
    with pytest.raises(DataError, match="v: its label is .*, expected one text"):
        ClassLabels.of([cut("v", label=value)], "label")
    with pytest.raises(DataError, match="v: its text is .*, expected one text"):
        text_of(MonoCut("v", 0, 1, 0, custom={"text": value}))


def test_blanks_make_no_other_class_and_other_case_is_warned_of(caplog):
    labels = ClassLabels.of([cut(label=name) for name in ("yes", "yes ", "\u00a0yes")], "label")
    assert labels.slots == (("yes",),) and labels.names(labels.targets(cut(label=" yes"))) == "yes"
    assert ClassLabels.of([cut(label="on | light")], "label").slots == (("on",), ("light",))
    assert not caplog.messages
    ClassLabels.of([cut(label=name) for name in ("on|A", "On|b", "off|a")], "label")
    assert caplog.messages == [
        "label: 'On', 'on' differ only in upper and lower case and count as different classes",
        "label: 'A', 'a' differ only in upper and lower case and count as different classes",
    ]


def test_a_column_with_a_class_for_each_utterance_is_warned_of(caplog):
    ClassLabels.of([cut(label=f"class{number // 2}") for number in range(60)], "label")
    ClassLabels.of([cut(label=f"class{number}") for number in range(12)], "label")
    assert not caplog.records
    ClassLabels.of([cut(label=f"utterance{number}") for number in range(60)], "label")
    assert "label: 60 of its 60 classes have a single training utterance" in caplog.text


@pytest.mark.parametrize("wrong", ["0.98", "|", "3", ""])
def test_what_cannot_be_a_phone_in_a_manifest(wrong):
    with pytest.raises(DataError, match=re.escape(f"u: {wrong!r} among its phones cannot be one")):
        TokenLabels(("h#",), "phones").targets(cut(phones=["h#", wrong]))


def test_transcripts_without_room_in_their_frames_are_counted(caplog):
    labels, frames = TokenLabels(CHARACTERS, "characters"), HubertConfig().frames
    assert frames(16_000) == 49
    fits = [cut("a", text="AB" * 24), cut("b", text="A" * 24 + "B")]  # 49 symbols; 26, and 23 repeats
    assert set(targets_of(labels, fits, frames, "train")) == {"a", "b"} and not caplog.records
    long = [cut("c", text="AB" * 24 + "A"), cut("d", text="A" * 25 + "B")]
    targets_of(labels, [*fits, *long], frames, "test-other")
    assert "test-other: the transcripts of 2 of 4 utterances need more frames" in caplog.text
    assert "(c, d)" in caplog.text
    caplog.clear()
    classes = ClassLabels.of([cut(label="x" * 99)], "label")
    assert targets_of(classes, [cut(label="x" * 99)], frames, "train") and not caplog.records


def test_a_transcript_of_blanks_is_none():
    with pytest.raises(DataError, match="u has no transcript"):
        TokenLabels(CHARACTERS, "characters").targets(cut(text=" \u2028"))
