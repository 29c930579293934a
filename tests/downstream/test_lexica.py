"""Lexica in the layouts in which they are published."""

import pytest

from distill.downstream.labels import CHARACTERS, WORD_END
from distill.downstream.lexica import can_be_phone, odd_phones, read_pronunciations, read_spellings
from distill.downstream.options import EvaluationConfig
from distill.downstream.truths import check_words
from distill.errors import DataError

HELLO, WORLD, A = ["HH", "AH0", "L", "OW1"], ["W", "ER1", "L", "D"], ["AH0"]
WORDS = {"HELLO": HELLO, "WORLD": WORLD, "A": A}

CMUDICT_07B = """\
;;; CMUdict 0.7b
#HASH-MARK  HH AE1 SH M AA2 R K
HELLO  HH AH0 L OW1
HELLO(1)  HH EH0 L OW1
WORLD  W ER1 L D
A  AH0
A(1)  EY1
"""
CMUDICT = """\
# pronunciations
#of English
hello HH AH0 L OW1 # greeting, english
hello(2) HH EH0 L OW1
world W ER1 L D #place 2
a AH0
"""
MFA = """\
hello\t0.99\t0.12\t1.02\t0.98\tHH AH0 L OW1
world\t1.0\tW ER1 L D
hello\t0.01\tHH EH0 L OW1
a\tAH0
"""


@pytest.mark.parametrize("text", [CMUDICT_07B, CMUDICT, MFA, MFA.replace("\t", " "), MFA.replace(" ", "\t")])
def test_comments_variants_and_probabilities_are_no_phones(tmp_path, text):
    (tmp_path / "lexicon.txt").write_text(text)
    assert read_pronunciations(tmp_path / "lexicon.txt") == WORDS


def test_probabilities_in_other_forms(tmp_path):
    (tmp_path / "x").write_text("a 1e-3 AH0\nb .5 B\nc 1. S\nd -0.5 0.1 1.2 .3 D\n")
    found = read_pronunciations(tmp_path / "x")
    assert found == {"A": ["AH0"], "B": ["B"], "C": ["S"], "D": ["D"]}


@pytest.mark.parametrize(
    "text, message",
    [
        ("HELLO HH\nHELLO\n", r"lexicon \S+x: line 2: HELLO has no phones"),
        ("a AH0\n\nhello 0.99\n", "line 3: hello has no phones"),
        ("a 0.9 0.1 AH0\n", "line 1: '0.9' cannot be a phone"),
        ("a 1 AH0\n", "line 1: '1' cannot be a phone"),
        ("a AH0\nb B 0.5\n", "line 2: '0.5' cannot be a phone"),
        ("hello HH AH0, L OW1\n", "line 1: 'AH0,' cannot be a phone"),
        ("hello HH (british)\n", r"line 1: '\(british\)' cannot be a phone"),
        ("hello [HH AH0]\n", r"line 1: '\[HH' cannot be a phone"),
        ("hello /h@l@U/\n", "line 1: '/h@l@U/' cannot be a phone"),
        ("HELLO H E L L O |\n", r"line 1: '\|' cannot be a phone"),
        ("hello HH #1\n", "line 1: '#1' cannot be a phone"),
        ("new york\tN UW1 Y\n", "line 1: 'new york' before the tab is not one word"),
        (";;; nothing\n", "x has no words"),
        ("HELLO\tHH\nDÉJÀ\tD\n".encode("latin1"), r"x is not UTF-8 \(line 2\)"),
    ],
)
def test_what_cannot_be_a_lexicon_of_phones_is_named(tmp_path, text, message):
    (tmp_path / "x").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as error:
        read_pronunciations(tmp_path / "x")
    assert "\n" not in str(error.value)


def test_transcripts_are_no_lexicon(tmp_path):
    lines = [f"103-{number} WORD{number} SAID{number}" for number in range(300)]
    (tmp_path / "x.trans.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match="600 different phones, such as SAID0, .*, which must be words"):
        read_pronunciations(tmp_path / "x.trans.txt")
    with pytest.raises(DataError, match="none.txt: no such file"):
        read_pronunciations(tmp_path / "none.txt")


def test_a_phone_of_one_word_alone_is_doubted(tmp_path, caplog):
    """A large lexicon has all phones of the language in several words."""
    lines = [f"word{number} {'AH0' if number % 2 else 'B'} S" for number in range(1000)]
    (tmp_path / "x").write_text("\n".join([*lines, "new york N UW1 S"]))
    found = read_pronunciations(tmp_path / "x")
    assert odd_phones(found) == {"york": "NEW", "N": "NEW", "UW1": "NEW"}
    assert odd_phones({word: found[word] for word in list(found)[-500:]}) == {}
    assert odd_phones({word: found[word] for word in list(found)[:1000]}) == {}
    check_words([], EvaluationConfig(task="pr", lexicon=str(tmp_path / "x")), tmp_path / "missing.txt")
    said = "/x: perhaps not phones, as only one word has each: york (in NEW), N (in NEW), UW1 (in NEW)"
    assert caplog.messages == [f"{tmp_path}{said}"]


def test_symbols_that_can_be_phones():
    can = ["AH0", "ə", "d͡ʒ", "tʰ", "@", "{", "?", "3r", "h#", "sil", "<eps>", "ǃ"]
    assert all(map(can_be_phone, can))
    assert not any(map(can_be_phone, ["", "1", "0.5", "1e-5", "|", ",", "...", "--", "a,", "(a)", "#1"]))


def test_spellings_have_comments_and_variants_but_no_numbers(tmp_path):
    (tmp_path / "x").write_text("# spoken\nthe t h e |\nthe(2) t h i | # rarely\nCAT C A T |\n")
    found = read_spellings(tmp_path / "x", CHARACTERS, WORD_END)
    assert found == {"the": [[*"THE|"], [*"THI|"]], "CAT": [[*"CAT|"]]}
    for text, message in (
        (
            "the t h e |\n3rd 3 r d |\n",
            "line 2: 3rd is spelled 3 R D |, expected letters that the head knows",
        ),
        ("the t h e\n", "line 1: the is spelled T H E, expected"),
        ("the 0.5 t h e |\n", "line 1: the is spelled 0.5 T H E |, expected"),
        ("the\n", "line 1: the has no spelling"),
        ("# the\n", "x has no words"),
    ):
        (tmp_path / "x").write_text(text)
        with pytest.raises(DataError) as error:
            read_spellings(tmp_path / "x", CHARACTERS, WORD_END)
        assert message in str(error.value)
