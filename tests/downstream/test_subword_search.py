"""The search over subwords against an enumeration of all paths."""

import itertools
import math

import pytest
import torch

from distill.downstream.decoding import BeamSearch
from distill.downstream.subword_search import SubwordDecoder, written
from distill.errors import DataError, UserError

UNIGRAMS = {"<unk>": (-1.0, 0.0), "<s>": (-99.0, -0.3), "</s>": (-1.0, 0.0)}
UNIGRAMS |= {"THE": (-0.7, -0.3), "CAT": (-0.9, -0.3), "CATS": (-1.2, -0.2)}
BIGRAMS = {("<s>", "THE"): -0.1, ("THE", "CAT"): -0.1, ("THE", "CATS"): -2.0, ("CAT", "</s>"): -0.1}
PIECES = ("\u2581THE", "\u2581CA", "T", "TS")
SPELLED = {"THE": (1,), "CAT": (2, 3), "CATS": (2, 4)}


class Pieces:
    """Stands in for units of subwords."""

    symbols = PIECES

    def encode(self, text):
        words = text.split()
        if any(word not in SPELLED for word in words):
            raise DataError(f"{text!r} cannot be written")
        return [number for word in words for number in SPELLED[word]]

    def words(self, numbers):
        return "".join(PIECES[n - 1] for n in numbers).replace("\u2581", " ").split()


def arpa(path, unigrams, bigrams):
    ones = [f"{score}\t{word}\t{backoff}" for word, (score, backoff) in unigrams.items()]
    twos = [f"{score}\t{' '.join(words)}" for words, score in bigrams.items()]
    counts = f"\\data\\\nngram 1={len(ones)}\nngram 2={len(twos)}\n"
    parts = [counts, "\\1-grams:", *ones, "", "\\2-grams:", *twos, "", "\\end\\", ""]
    path.write_text("\n".join(parts))
    return path


@pytest.fixture
def model(tmp_path):
    pytest.importorskip("kenlm")
    return arpa(tmp_path / "tiny.arpa", UNIGRAMS, BIGRAMS)


def language_model(words):
    total = 0.0
    for before, word in itertools.pairwise(["<s>", *words, "</s>"]):
        backed_off = UNIGRAMS[before][1] + UNIGRAMS[word][0]
        total += BIGRAMS.get((before, word), backed_off)
    return total


def enumerated(log_probs, search):
    """The best words over all paths of symbols that spell words, and their score."""
    n_frames, n_symbols = log_probs.shape
    rows = log_probs.tolist()
    by_spelling = {numbers: word for word, numbers in SPELLED.items()}
    best = (-math.inf, [])
    for path in itertools.product(range(n_symbols), repeat=n_frames):
        numbers = [n for n, _ in itertools.groupby(path) if n]
        words, rest = [], list(numbers)
        while rest:
            length = 1 if rest[0] == 1 else 2
            word = by_spelling.get(tuple(rest[:length]))
            if word is None:
                break
            words, rest = [*words, word], rest[length:]
        if rest:
            continue
        score = sum(row[n] for row, n in zip(rows, path, strict=True))
        score += search.lm_weight * language_model(words) + search.word_score * len(words)
        best = max(best, (score, words))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_best_of_all_paths(model, seed):
    search = BeamSearch(beam=500, beam_threshold=1e9, lm_weight=1.5, word_score=0.4)
    torch.manual_seed(seed)
    log_probs = (2.0 * torch.randn(6, 5)).log_softmax(-1)
    _, words = enumerated(log_probs, search)
    assert SubwordDecoder(model, Pieces(), search=search)(log_probs) == words


def spoken(numbers):
    probabilities = torch.full((len(numbers), 5), 1e-9)
    probabilities[range(len(numbers)), numbers] = 1.0
    return probabilities.log()


def test_a_last_piece_may_last_several_frames(model):
    decode = SubwordDecoder(model, Pieces())
    assert decode(spoken([1, 1, 2, 3, 3, 3])) == ["THE", "CAT"]
    assert decode(spoken([1, 1, 0, 1])) == ["THE", "THE"]  # said twice: with a blank in between
    assert decode(spoken([0, 0])) == []


def test_a_model_of_the_pieces_themselves(tmp_path):
    pytest.importorskip("kenlm")
    unigrams = {name: UNIGRAMS[name] for name in ("<unk>", "<s>", "</s>")}
    unigrams |= {piece: (-0.6, 0.0) for piece in PIECES}
    decode = SubwordDecoder(arpa(tmp_path / "pieces.arpa", unigrams, {}), Pieces())
    assert decode.of_pieces
    assert decode(spoken([1, 2, 2, 0, 4])) == ["THE", "CATS"]


def test_lexicons_are_spelled_in_pieces(model, tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("the \u2581THE\ncat \u2581CA T\n")
    decode = SubwordDecoder(model, Pieces(), lexicons=[lexicon])
    assert decode(spoken([1, 2, 4])) == ["THE", "CAT"]  # the lexicon does not have CATS
    lexicon.write_text("cat c a t\n")
    with pytest.raises(DataError, match="cat is spelled c a t, expected pieces that the model knows$"):
        SubwordDecoder(model, Pieces(), lexicons=[lexicon])


def test_a_language_model_of_another_alphabet_is_refused(tmp_path, caplog):
    pytest.importorskip("kenlm")
    unigrams = {name: UNIGRAMS[name] for name in ("<unk>", "<s>", "</s>")} | {"КОТ": (-0.5, 0.0)}
    path = arpa(tmp_path / "other.arpa", unigrams, {})
    with pytest.raises(DataError, match="has no word that can be written in the model's subwords$"):
        SubwordDecoder(path, Pieces())
    unigrams |= {"КОШКА": (-0.5, 0.0), "CAT": (-0.5, 0.0)}
    SubwordDecoder(arpa(tmp_path / "both.arpa", unigrams, {}), Pieces())
    assert "only 1 of its 3 words can be written in the model's symbols" in caplog.text


def test_words_that_cannot_be_written_have_no_symbols():
    assert written(Pieces(), "cats") == [2, 4]
    assert written(Pieces(), "dog") == []


def test_without_kenlm_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    path = arpa(tmp_path / "tiny.arpa", UNIGRAMS, BIGRAMS)
    with pytest.raises(UserError, match=r"pip install 'robust-distilhubert\[lm\]'"):
        SubwordDecoder(path, Pieces())
