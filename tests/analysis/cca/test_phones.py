"""Phones of espeak-ng, TIMIT and aligners as the 39 of the paper, against pronunciations typed by hand."""

import numpy as np
import pytest

from distill.analysis.cca.alignments import read_alignments
from distill.analysis.cca.phones import (
    PHONES,
    fold_words,
    from_arpabet,
    from_ipa,
    from_timit,
    is_silent,
    map_phones,
    read_phone_map,
)
from distill.analysis.cca.segments import Interval
from distill.data.sources import open_cuts
from distill.data_prep.mini import SPEAKERS, VOCABULARY
from distill.errors import DataError

PRONUNCIATIONS = """
    yes Y EH S
    no N OW
    up AH P
    down D AW N
    left L EH F T
    right R AY T
    on AO N
    off AO F
    stop S T AA P
    go G OW
    this DH IH S
    red R EH D
    green G R IY N
    blue B L UW
    yellow Y EH L OW
    small S M AO L
    big B IH G
    old OW L D
    new N UW
    cold K OW L D
    warm W AO R M
    bird B ER D
    house HH AW S
    water W AO T ER
    river R IH V ER
    mountain M AW N T AH N
    man M AE N
    woman W UH M AH N
    child CH AY L D
    door D AO R
    window W IH N D OW
    light L AY T
    music M Y UW Z IH K
    street S T R IY T
    garden G AA R D AH N
    summer S AH M ER
    winter W IH N T ER
    morning M AO R N IH NG
    evening IY V N IH NG
    walks W AO K S
    runs R AH N Z
    sees S IY Z
    finds F AY N D Z
    takes T EY K S
    gives G IH V Z
    opens OW P AH N Z
    closes K L OW Z IH Z
    under AH N D ER
    over OW V ER
    near N IH R
    with W IH DH
    and AE N D
    two T UW
    three TH R IY
    four F AO R
    five F AY V
    six S IH K S
    seven S EH V AH N
    eight EY T
    nine N AY N
    ten T EH N
    measure M EH ZH ER
    joy JH OY
    judge JH AH JH
    shoe SH UW
    thing TH IH NG
    hello HH AH L OW
    book B UH K
    choice CH OY S
    happy HH AE P IY
    fire F AY ER
    model M AA D AH L
    air EH R
    tour T UH R
    data D EY T AH
"""
KNOWN = {word: phones for word, *phones in map(str.split, PRONUNCIATIONS.strip().splitlines())}
AMERICAN = {  # what espeak-ng's American voices say otherwise
    "small": "S M AO",  # a dark l after a vowel takes no time of its own
    "mountain": "M AW N T IH N",
}
BRITISH = {  # and its British ones: no r but before vowels, LOT
    "on": "AA N",
    "off": "AA F",
    "small": "S M AO",
    "new": "N Y UW",
    "warm": "W AO M",
    "water": "W AO T AH",
    "river": "R IH V AH",
    "mountain": "M AW N T IH N",
    "door": "D AO",
    "garden": "G AA D AH N",
    "summer": "S AH M AH",
    "winter": "W IH N T AH",
    "morning": "M AO N IH NG",
    "under": "AH N D AH",
    "over": "OW V AH",
    "near": "N IY AH",
    "four": "F AO",
    "measure": "M EH ZH AH",
    "fire": "F AY AH",
    "air": "EH AH",
    "tour": "T UH AH",
}
RECEIVED = {"happy": "HH AE P IH", "tour": "T AO"}  # as Received Pronunciation has them


def spoken(word: str, voice: str) -> list[str]:
    espeak = pytest.importorskip("distill.data_prep.espeak")
    pytest.importorskip("espeakng_loader")
    found = {"a": [Interval(*phone) for phone in espeak.synthesise(word, voice=voice).phones]}
    return [one.symbol for one in map_phones(found)["a"]]


@pytest.mark.parametrize(
    "voice, otherwise", [("en-us", AMERICAN), ("en", BRITISH), ("en-gb-x-rp", BRITISH | RECEIVED)]
)
def test_espeaks_words_have_the_phones_of_a_dictionary(voice, otherwise):
    assert set(KNOWN) >= set(VOCABULARY)
    expected = {word: otherwise.get(word, " ".join(phones)) for word, phones in KNOWN.items()}
    assert {word: " ".join(spoken(word, voice)) for word in KNOWN} == expected
    assert {phone for phones in KNOWN.values() for phone in phones} == set(PHONES)


def test_all_accents_of_the_mini_corpora_are_tested():
    voices = {speaker.voice.partition("+")[0] for speakers in SPEAKERS.values() for speaker in speakers}
    assert voices == {"en-us", "en", "en-gb-x-rp"}


def test_every_phone_of_the_mini_corpora_is_known(mini_data):
    cuts = list(open_cuts([str(path) for path in sorted(mini_data.glob("speech_*.jsonl.gz"))]))
    symbols = read_alignments(None, cuts, "phone")
    phones = map_phones(symbols)
    assert list(phones) == list(symbols)
    for name, intervals in phones.items():
        assert {one.symbol for one in intervals} <= set(PHONES)
        ends = [time for one in intervals for time in one[1:]]
        assert (np.diff(ends) > -2e-5).all() and len(intervals) >= len(symbols[name])  # rounded to 10 us
        assert (ends[0], ends[-1]) == (symbols[name][0].start_s, symbols[name][-1].end_s)


def test_a_symbol_for_two_phones_is_split_in_the_middle():
    found = map_phones({"a": [Interval("ɔːɹ", 0.2, 0.5), Interval("aɪɚ", 0.5, 0.7)]})["a"]
    assert [one.symbol for one in found] == ["AO", "R", "AY", "ER"]
    assert [time for one in found for time in one[1:]] == pytest.approx(
        [0.2, 0.35, 0.35, 0.5, 0.5, 0.6, 0.6, 0.7]
    )


@pytest.mark.parametrize(
    "symbols, expected",
    [
        (["AH0", "ao1", "T", "zh", "sil", "sp", "", "SPN"], ["AH", "AO", "T", "ZH"]),
        (["SIL_S", "HH_B", "EH1_I", "N_E", "OW0_S", "<eps>", "[noise]"], ["HH", "EH", "N", "OW"]),
        (
            ["h#", "sh", "ix", "tcl", "dx", "axr", "q", "ax-h", "eng", "epi", "ux"],
            ["SH", "IH", "T", "ER", "AH", "NG", "UW"],
        ),
        (
            ["ˈɑː", "tʰ", "t͡ʃ", "n̩", "c\u0327", "ɫ̩", "kʷ", "d̪", "ɾ̃", "spn"],
            ["AA", "T", "CH", "N", "HH", "L", "K", "DH", "N"],
        ),
        (["p", "t", "s"], ["P", "T", "S"]),
    ],
)
def test_alphabets_are_told_apart_and_silence_dropped(symbols, expected):
    intervals = [Interval(symbol, number, number + 1) for number, symbol in enumerate(symbols)]
    assert [one.symbol for one in map_phones({"a": intervals})["a"]] == expected


def test_alphabets_agree_on_the_symbols_that_they_share():
    symbols = [phone.lower() for phone in PHONES] + [*"pbtdkgfvszmnlrwaiu", "ow", "aw", "ax", "dx", "ɹ"]
    for symbol in symbols:
        known = {read(symbol) for read in (from_arpabet, from_timit, from_ipa)} - {None}
        assert len(known) == 1, symbol
    assert len(PHONES) == len(set(PHONES)) == 39


@pytest.mark.parametrize(
    "symbols, message",
    [
        (
            ["AH0", "X", "T", "QQ"],
            r"2 of 4 phones are not in .*ARPAbet\): QQ, X \(as in a\): .*--phone-map FILE",
        ),
        (["ə", "t", "ø", "sil"], r"1 of 3 phones are not in .*IPA\): ø"),
        (["@", "{", "T", "i", "S", "3`"], r"phones are not in"),  # X-SAMPA, whose T and S are others
    ],
)
def test_unknown_phones_are_named(symbols, message):
    with pytest.raises(DataError, match=message) as error:
        map_phones({"a": [Interval(symbol, 0, 1) for symbol in symbols]})
    assert "\n" not in str(error.value)


def test_a_map_of_ones_own(tmp_path):
    path = tmp_path / "map.tsv"
    path.write_text("y\tY\nø\tOE\nts\tT S\nhm\t\n", encoding="utf-8")
    assert read_phone_map(path) == {"y": ("Y",), "ø": ("OE",), "ts": ("T", "S"), "hm": ()}
    symbols = [Interval(symbol, 0, 1) for symbol in ("ø", "hm", "ts", "sil")]
    assert [one.symbol for one in map_phones({"a": symbols}, path)["a"]] == ["OE", "T", "S"]
    with pytest.raises(DataError, match=r"1 of 1 phones are not in .*map.tsv: x"):
        map_phones({"a": [Interval("x", 0, 1)]}, path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a b", "line 1: 'a b' is not"),
        ("a\tb\tc", "line 1"),
        ("a\tb\na\tc", "line 2: a is there twice"),
        ("", "empty"),
    ],
)
def test_other_files_are_no_map(tmp_path, text, message):
    (tmp_path / "map.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_phone_map(tmp_path / "map.tsv")


def test_words_are_in_lower_case_and_no_words_are_dropped():
    symbols = ["The", "<unk>", "NOISE", "sil", "", "[laughter]", "don't", "(er)"]
    found = fold_words({"a": [Interval(symbol, 0, 1) for symbol in symbols], "b": []})
    assert [one.symbol for one in found["a"]] == ["the", "noise", "don't"] and found["b"] == []
    assert is_silent("noise") and not is_silent("n")
