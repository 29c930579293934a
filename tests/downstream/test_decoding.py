"""Greedy decoding, and what a language model changes."""

import gzip
import itertools
import re
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.downstream.decoding import (
    BeamSearch,
    LanguageModelDecoder,
    arpa_words,
    greedy,
    in_the_models_case,
    language_model_kind,
    order_of,
)
from distill.downstream.labels import CHARACTERS, WORD_END
from distill.downstream.lexica import read_spellings
from distill.errors import DataError, UserError

ARPA = """
\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.0\t<unk>\t0
-99\t<s>\t-0.3
-1.0\t</s>\t0
-0.7\tTHE\t-0.3
-0.9\tCAT\t-0.3
-0.9\tKAT\t-0.3

\\2-grams:
-0.1\t<s> THE
-0.1\tTHE CAT
-3.0\tTHE KAT
-0.1\tCAT </s>

\\end\\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "tiny.arpa"
    path.write_text(ARPA)
    return path


def spoken(text: str, unsure: dict[int, tuple[str, float]]) -> torch.Tensor:
    """Log-probabilities of a text, spelled with a blank after every character.

    Args:
        unsure: by character, another one with its share.
    """
    rows = []
    for index, character in enumerate(text):
        row = torch.full((1 + len(CHARACTERS),), 1e-6)
        row[1 + CHARACTERS.index(character)] = 1.0
        if index in unsure:
            other, share = unsure[index]
            row[1 + CHARACTERS.index(character)] = 1 - share
            row[1 + CHARACTERS.index(other)] = share
        blank = torch.full((1 + len(CHARACTERS),), 1e-6)
        blank[0] = 1.0
        rows += [row / row.sum(), blank / blank.sum()]
    return torch.stack(rows).log()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_greedy_decoding_is_grouping(path):
    log_probs = torch.nn.functional.one_hot(torch.tensor(path), 5).float().log_softmax(-1)
    assert greedy(log_probs) == [number for number, _ in itertools.groupby(path) if number]


def test_a_language_model_corrects_a_spelling(arpa):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    said = spoken("THE|KAT|", {4: ("C", 0.4)})
    assert "".join(CHARACTERS[n - 1] for n in greedy(said)) == "THE|KAT|"
    decoder = LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END)
    assert decoder(said) == ["THE", "CAT"]
    assert decoder(spoken("THE|KAT|", {})) == ["THE", "KAT"]  # against a clear voice it does not win
    packed = arpa.with_name("tiny.arpa.gz")
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert LanguageModelDecoder(packed, CHARACTERS, word_end=WORD_END)(said) == ["THE", "CAT"]


def test_the_weight_of_the_language_model_decides(arpa):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    said = spoken("THE|KAT|", {4: ("C", 0.4)})
    decoder = LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END, search=BeamSearch(lm_weight=0.0))
    assert decoder(said) == ["THE", "KAT"]
    decoder.search(BeamSearch(beam=50, lm_weight=2.0))
    assert decoder(said) == ["THE", "CAT"]
    decoder.search(BeamSearch(lm_weight=2.0, word_score=-1000.0))  # words are dear
    assert len(decoder(said)) < 2


@pytest.mark.parametrize(
    ("option", "value"), [("beam", 0), ("beam_tokens", 0), ("lm_weight", -1.0), ("beam_threshold", 0.0)]
)
def test_options_of_the_search_are_checked(option, value):
    with pytest.raises(ValueError, match=option):
        BeamSearch(**{option: value})
    with pytest.raises(ValueError, match="finite"):
        BeamSearch(word_score=float("nan"))


def test_the_order_of_a_model(arpa):
    assert order_of(arpa) == 2


def test_only_words_of_the_lexicon_are_said(arpa, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    (tmp_path / "lexicon.txt").write_text("THE T H E |\nKAT K A T |\n")
    decoder = LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END, lexicons=[tmp_path / "lexicon.txt"])
    assert decoder(spoken("THE|CAT|", {4: ("K", 0.2)})) == ["THE", "KAT"]
    (tmp_path / "more.txt").write_text("CAT C A T |\nKAT C A T |\n")  # a word's first lexicon counts
    both = [tmp_path / "lexicon.txt", tmp_path / "more.txt"]
    decoder = LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END, lexicons=both)
    assert decoder(spoken("THE|CAT|", {})) == ["THE", "CAT"]


@pytest.mark.parametrize("model", [str.upper, str.lower])
@pytest.mark.parametrize("words", [None, str.upper, str.lower])
def test_the_case_of_model_and_lexicon_does_not_matter(tmp_path, model, words):
    """The truth is in upper case; a word in a case that the model does not have would be unknown to it."""
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    path, lexicons = tmp_path / "lm.arpa", []
    path.write_text(re.sub("THE|CAT|KAT", lambda found: model(found[0]), ARPA))
    if words is not None:
        lexicons = [tmp_path / "lexicon.txt"]
        lexicons[0].write_text(words("THE T H E |\nCAT C A T |\nKAT K A T |\nDOG D O G |\n"))
    decoder = LanguageModelDecoder(path, CHARACTERS, word_end=WORD_END, lexicons=lexicons)
    assert decoder(spoken("THE|KAT|", {4: ("C", 0.4)})) == ["THE", "CAT"]
    assert decoder(spoken("THE|KAT|", {})) == ["THE", "KAT"]


def test_a_binary_models_words_are_looked_up_in_its_own_case(arpa, monkeypatch, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    monkeypatch.setattr("distill.downstream.decoding.language_model_kind", lambda _: "binary")
    assert "THE" in kenlm.Model(str(arpa))  # an ARPA file stands in: it is read in the same way
    (tmp_path / "lexicon.txt").write_text("the t h e |\ncat c a t |\nkat k a t |\n")
    decoder = LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END, lexicons=[tmp_path / "lexicon.txt"])
    assert decoder(spoken("THE|KAT|", {4: ("C", 0.4)})) == ["THE", "CAT"]


def test_words_are_written_as_the_model_writes_them(tmp_path):
    the, cat, dog = [["T", "H", "E", "|"]], [["C", "A", "T", "|"]], [["D", "O", "G", "|"]]
    known = {"the", "The", "CAT"}
    spellings = {"THE": the, "cat": cat, "Dog": dog}
    assert in_the_models_case(spellings, known, tmp_path) == {"the": the, "CAT": cat, "Dog": dog}
    assert in_the_models_case({"THE": the, "the": the}, known, tmp_path) == {"the": the}  # not twice
    both = {"the", "THE"}  # both are words of the model: either may be said
    assert in_the_models_case({"The": the}, both, tmp_path) == {"the": the, "THE": the}
    with pytest.raises(DataError, match="knows none of the lexicon's words: give the lexicon that belongs"):
        in_the_models_case({"DOG": dog}, known, tmp_path)
    (tmp_path / "lower.txt").write_text("the t h e |\n")
    assert read_spellings(tmp_path / "lower.txt", CHARACTERS, WORD_END) == {"the": the}


def test_kinds_of_language_models(arpa, tmp_path):
    assert language_model_kind(arpa) == "arpa"
    assert list(arpa_words(arpa)) == ["THE", "CAT", "KAT"]
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert language_model_kind(packed) == "arpa" and list(arpa_words(packed)) == ["THE", "CAT", "KAT"]
    (tmp_path / "b.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    assert language_model_kind(tmp_path / "b.bin") == "binary"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"\x80\x04\x95", id="pickle"),
        pytest.param(gzip.compress(b"hello", mtime=0), id="packed text"),
        pytest.param(b"\x1f\x8bnot gzip", id="broken gzip"),
        pytest.param(b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 20, id="damaged gzip"),
        pytest.param(b"PK\x03\x04", id="zip"),
    ],
)
def test_a_language_model_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "lm").write_bytes(content)
    with pytest.raises(DataError, match="lm is no n-gram language model: expected an ARPA file") as caught:
        LanguageModelDecoder(tmp_path / "lm", CHARACTERS, word_end=WORD_END)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_words_in_another_encoding_are_named_with_their_line(arpa, tmp_path, packed):
    content = arpa.read_text().replace("KAT", "KÄT").encode("latin1")
    line = 1 + next(n for n, line in enumerate(content.split(b"\n")) if b"\xc4" in line)
    path = tmp_path / "lm"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert language_model_kind(path) == "arpa"
    with pytest.raises(DataError, match=rf"^lm {path} is not UTF-8 \(line {line}\)$"):
        list(arpa_words(path))


def test_a_line_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "x.arpa.gz"
    path.write_bytes(gzip.compress(b"\\data\\\nngram 1=1\n\\1-grams:\n-1 " + bytes(10_000_000)))
    assert language_model_kind(path) == "arpa"
    with pytest.raises(DataError, match="line 4 is too long for an n-gram"):
        list(arpa_words(path))


def test_what_else_can_be_wrong_with_it(arpa, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file"):
        LanguageModelDecoder(tmp_path / "none.arpa", CHARACTERS, word_end=WORD_END)
    (tmp_path / "b.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(DataError, match="is binary and does not list its words: give a lexicon=FILE"):
        LanguageModelDecoder(tmp_path / "b.bin", CHARACTERS, word_end=WORD_END)
    (tmp_path / "words.txt").write_text("HELLO\n")
    with pytest.raises(DataError, match="line 1: HELLO has no spelling, expected WORD W O R D"):
        read_spellings(tmp_path / "words.txt", CHARACTERS, WORD_END)
    for name in [name for name in sys.modules if name.partition(".")[0] == "flashlight"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flashlight", None)
    with pytest.raises(UserError, match=r"pip install 'robust-distilhubert\[lm\]'"):
        LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END)


def test_lexicons_in_other_characters_are_refused(arpa, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    (tmp_path / "other.txt").write_text("THE T H 3 |\n")
    with pytest.raises(DataError, match=r"THE is spelled T H 3 \|, expected"):
        LanguageModelDecoder(arpa, CHARACTERS, word_end=WORD_END, lexicons=[tmp_path / "other.txt"])


def test_both_ways_of_decoding_are_scored(quick, student, tmp_path, arpa):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    import json

    from distill.downstream.evaluate import evaluate

    paths = evaluate(student, quick("asr", lm=str(arpa), conditions=["clean"], steps=1), tmp_path)
    assert [json.loads(path.read_text())["lm"] for path in paths] == [False, True]
