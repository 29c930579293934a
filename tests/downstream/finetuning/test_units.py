"""Characters and subwords."""

import itertools
import math

import pytest

from distill.downstream.finetuning import units as units_module
from distill.downstream.finetuning.units import FILE, Characters, Subwords, learn_subwords, read_units
from distill.errors import CheckpointError, ConfigError, DataError, UserError

TEXTS = [
    "the cat sat on the mat",
    "THE CAT  IS NOT THERE",
    "that is the hat of the cat",
    "a cat's hat is on the mat that is there",
]


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    pytest.importorskip("sentencepiece")
    return learn_subwords(TEXTS, 20)


def test_characters():
    units = Characters()
    assert units.outputs == 29
    numbers = units.encode(" it's  me ")
    assert [units.symbols[number - 1] for number in numbers] == [*"IT'S|ME|"]
    assert units.words([0, *numbers, 0]) == ["IT'S", "ME"]
    assert units.encode("") == []
    with pytest.raises(DataError, match="^'É' in its transcript is none of the characters"):
        units.encode("café")
    with pytest.raises(DataError, match=r"'\|' in its transcript"):
        units.encode("a|b")


def test_subwords_write_what_they_read(subwords):
    assert subwords.outputs == 20 and len(subwords.symbols) == 19
    for text in TEXTS:
        numbers = subwords.encode(text)
        assert min(numbers) > 0 and max(numbers) < 20  # 0 is the blank's
        assert " ".join(subwords.words(numbers)) == " ".join(text.upper().split())
        assert subwords.words([0, numbers[0], 0, *numbers[1:]]) == subwords.words(numbers)
    assert len(subwords.encode(TEXTS[0])) < len(TEXTS[0].replace(" ", ""))


def test_the_likeliest_pieces_are_taken(subwords):
    """Against all ways to cut a word, by the scores in the model."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=subwords.model)
    scores = {model.id_to_piece(n): model.get_score(n) for n in range(1, model.get_piece_size())}
    written = units_module.WORD_BEGIN + "THAT"

    def score(cuts):
        ends = [0, *cuts, len(written)]
        return sum(scores.get(written[a:b], -math.inf) for a, b in itertools.pairwise(ends))

    ways = [c for n in range(len(written)) for c in itertools.combinations(range(1, len(written)), n)]
    ends = [0, *max(ways, key=score), len(written)]
    best = [written[a:b] for a, b in itertools.pairwise(ends)]
    assert [subwords.symbols[number - 1] for number in subwords.encode("that")] == best


def test_the_same_transcripts_give_the_same_subwords(subwords):
    assert learn_subwords([text.upper() for text in TEXTS], 20).model == subwords.model


def test_vocabularies_that_cannot_be(subwords):
    with pytest.raises(
        ConfigError, match=r"^vocabulary 1024 is larger than .* allow: set vocabulary=\d+ at most, or"
    ):
        learn_subwords(TEXTS, 1024)
    with pytest.raises(ConfigError, match=r"^vocabulary 5 is too small for .*: at least \d+$"):
        learn_subwords(TEXTS, 5)


def test_the_largest_vocabulary_that_is_named_is_possible(subwords):
    with pytest.raises(ConfigError) as error:
        learn_subwords(TEXTS, 1024)
    most = int(str(error.value).split("vocabulary=")[1].split()[0])
    assert learn_subwords(TEXTS, most).outputs == most


def test_a_character_that_training_did_not_have(subwords):
    with pytest.raises(DataError, match="^'É' in its transcript does not occur in the training"):
        subwords.encode("thé cat")


def test_subwords_are_kept_in_a_file(subwords, tmp_path):
    subwords.save(tmp_path)
    assert read_units("subwords", tmp_path) == subwords
    (tmp_path / FILE).write_bytes(subwords.model[:50])
    with pytest.raises(CheckpointError, match="damaged: restore it"):
        read_units("subwords", tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"subwords.model, its subwords, cannot be read"):
        read_units("subwords", tmp_path)
    assert read_units("characters", tmp_path) == Characters()
    with pytest.raises(CheckpointError, match="its units are 'runes', expected characters or subwords"):
        read_units("runes", tmp_path)


def test_without_sentencepiece(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"pip install 'robust-distilhubert\[subword\]'"):
        learn_subwords(TEXTS, 20)
