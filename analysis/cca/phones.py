"""Phones of several alphabets as the 39 of the paper, and words in one spelling.

The 39 are those of the CMU Pronouncing Dictionary without stress, as aligners of LibriSpeech write them. They
are not the 39 of Lee and Hon (1989) for TIMIT, which have a flap and a silence but no AO and no ZH. Alphabets
that are understood: ARPAbet with or without stress, TIMIT's 61 symbols, and the IPA of espeak-ng's American
and British voices and of the English models of the Montreal Forced Aligner.

What is not the same in all of them:

* A symbol for several phones, such as espeak-ng's `ɔːɹ`, becomes several intervals of equal length.
* A flap is T, as in "water", also where it stands for a D; a nasal flap is N; IPA's glottal stop is a T, as
  in "button", TIMIT's `q` is dropped.
* Schwas are AH, or ER with an r; `ᵻ` and `ix` are IH; a syllabic consonant is the consonant.
* British vowels keep their quality: LOT is AA, BATH as spoken, and a final `ə` AH where Americans say ER.
* espeak-ng speaks a vowel and a final dark l ("small") as one, of which it says the vowel alone.
* TIMIT's closures are silence, as Lee and Hon have it: a stop is its release.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from distill.analysis.cca.alignments import Alignments
from distill.analysis.cca.segments import Interval
from distill.data.text import read_lines
from distill.errors import DataError, listed

logger = logging.getLogger(__name__)

_CMU = """
    AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K
    L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH
"""
PHONES = tuple(_CMU.split())
"""In the order of the alphabet."""
Table = Mapping[str, tuple[str, ...]]
"""The phones that a symbol stands for; none: it is dropped."""


def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Lines `SYMBOL SYMBOL ... = PHONE ...`."""
    rows = (line.partition("=")[::2] for line in text.strip().splitlines())
    return {_normal(symbol): tuple(phones.split()) for symbols, phones in rows for symbol in symbols.split()}


def _normal(symbol: str) -> str:
    return unicodedata.normalize("NFD", symbol)


_ARPABET: Table = {phone.lower(): (phone,) for phone in PHONES}
_TIMIT: Table = {
    **_ARPABET,
    **_table("""
        ax ax-h = AH
        ix = IH
        ux = UW
        axr = ER
        dx = T
        nx en = N
        em = M
        eng = NG
        el = L
        hv = HH
        bcl dcl gcl kcl pcl tcl epi pau h# q =
    """),
}
_IPA: Table = _table("""
    p = P
    b = B
    t ɾ ʔ = T
    d = D
    k c = K
    ɡ g ɟ = G
    tʃ = CH
    dʒ = JH
    f = F
    v = V
    θ t̪ = TH
    ð d̪ = DH
    s = S
    z = Z
    ʃ = SH
    ʒ = ZH
    h ç = HH
    m ɱ = M
    n ɲ ɾ̃ = N
    ŋ = NG
    l ɫ ʎ = L
    ɹ r = R
    j = Y
    w ʍ = W
    iː i = IY
    ɪ ᵻ = IH
    ɛ ɛː = EH
    æ a = AE
    ɑː ɑ ɒ = AA
    ɔː ɔ ɒː = AO
    ʌ ɐ ə = AH
    ɜː ɜ ɝ ɚ = ER
    ʊ = UH
    uː u ʉː ʉ = UW
    eɪ ej = EY
    aɪ aj = AY
    ɔɪ ɔj = OY
    aʊ aw = AW
    oʊ ow əʊ əw = OW
    ɑːɹ = AA R
    ɔːɹ = AO R
    ɪɹ = IH R
    ɛɹ = EH R
    ʊɹ = UH R
    iə = IY AH
    eə = EH AH
    ʊə = UH AH
    aɪə = AY AH
    aɪɚ = AY ER
    aʊə = AW AH
    əl = AH L
""")
_IPA_MARKS = dict.fromkeys(map(ord, "ˈˌʰʲʷ̩͡"))
"""Stress, aspiration, palatal and round consonants, syllabic consonants, ties."""
_BRACKETED = re.compile(r"[\[<({].*[\])>}]|")
_SILENT_WORDS = frozenset({"sil", "sp", "spn", "!sil"})
_SILENT_PHONES = _SILENT_WORDS | {"h#", "#h", "pau", "nsn", "lau", "noise", "silence"}


def is_silent(symbol: str, silences: frozenset[str] = _SILENT_PHONES) -> bool:
    """Whether a symbol is no phone: empty, in brackets (`<eps>`, `[noise]`), or a name of silence."""
    symbol = re.sub("_[BIES]$", "", symbol.strip())
    return _BRACKETED.fullmatch(symbol) is not None or symbol.lower() in silences


def from_arpabet(symbol: str) -> tuple[str, ...] | None:
    """`AH0`, `ah`, or Kaldi's `AH0_B`; None for what is none."""
    return _ARPABET.get(re.sub("[012]?(_[BIES])?$", "", symbol).lower())


def from_timit(symbol: str) -> tuple[str, ...] | None:
    """One of the 61 symbols, in lower or upper case; None for what is none."""
    return _TIMIT.get(symbol.lower())


def from_ipa(symbol: str) -> tuple[str, ...] | None:
    """A symbol of espeak-ng or the Montreal Forced Aligner; None for what is none."""
    normal = _normal(symbol)
    return _IPA.get(normal) or _IPA.get(normal.translate(_IPA_MARKS))


_ALPHABETS: dict[str, Callable[[str], tuple[str, ...] | None]] = {
    "ARPAbet": from_arpabet,
    "TIMIT's": from_timit,
    "IPA": from_ipa,
}
"""By name; of those that know all symbols, the first is taken. They agree on the symbols that they share."""


def map_phones(alignments: Alignments, phone_map: str | Path | None = None) -> Alignments:
    """Intervals of the 39 phones, silence left out.

    Args:
        alignments: with symbols of one alphabet.
        phone_map: a file with lines `SYMBOL <tab> PHONE PHONE ...` for any other alphabet or language; the
            phones are then those of the file, none for a symbol that is dropped.

    Raises:
        DataError: for symbols that are not known, naming them.
    """
    where = {
        one.symbol: name
        for name, intervals in alignments.items()
        for one in intervals
        if not is_silent(one.symbol)
    }
    if phone_map is not None:
        table = read_phone_map(Path(phone_map))
        _refuse_unknown((symbol for symbol in where if symbol not in table), where, str(phone_map))
    else:
        table = _known(where)
    return {name: _mapped(intervals, table) for name, intervals in alignments.items()}


def _known(where: Mapping[str, str]) -> Table:
    unknown = {
        alphabet: sorted(symbol for symbol in where if read(symbol) is None)
        for alphabet, read in _ALPHABETS.items()
    }
    best = min(unknown, key=lambda alphabet: len(unknown[alphabet]))
    _refuse_unknown(unknown[best], where, f"the alphabet that they are nearest to ({best})")
    logger.info("the phones are %s: %d symbols", best, len(where))
    return {symbol: _ALPHABETS[best](symbol) or () for symbol in where}


def _refuse_unknown(symbols: Iterable[str], where: Mapping[str, str], of: str) -> None:
    if unknown := sorted(symbols):
        raise DataError(
            f"{len(unknown)} of {len(where)} phones are not in {of}: {listed(unknown, 10)} (as in "
            f"{where[unknown[0]]}): say what they are in a file of lines SYMBOL <tab> PHONE, --phone-map FILE"
        )


def read_phone_map(path: Path) -> dict[str, tuple[str, ...]]:
    """The phones by symbol, from lines `SYMBOL <tab> PHONE PHONE ...`.

    Raises:
        DataError: the file cannot be read, a line has another form, or a symbol is there twice.
    """
    table: dict[str, tuple[str, ...]] = {}
    for number, line in read_lines(path):
        symbol, tab, phones = line.partition("\t")
        symbol = symbol.strip()
        if not tab or not symbol or "\t" in phones.strip():
            raise DataError(
                f"{path}, line {number}: {listed([line])!r} is not of the form SYMBOL <tab> PHONE"
            )
        if symbol in table:
            raise DataError(f"{path}, line {number}: {symbol} is there twice")
        table[symbol] = tuple(phones.split())
    if not table:
        raise DataError(f"{path} is empty; a phone map has lines SYMBOL <tab> PHONE")
    return table


def _mapped(intervals: Iterable[Interval], table: Table) -> list[Interval]:
    found = []
    for symbol, start_s, end_s in intervals:
        phones = table.get(symbol, ())
        each_s = (end_s - start_s) / max(len(phones), 1)
        for number, phone in enumerate(phones):
            last = number == len(phones) - 1
            found.append(
                Interval(phone, start_s + number * each_s, end_s if last else start_s + (number + 1) * each_s)
            )
    return found


def fold_words(alignments: Alignments) -> Alignments:
    """Words in lower case, without what is in brackets (`<unk>`) and without silence."""
    return {
        name: [one._replace(symbol=one.symbol.casefold()) for one in intervals if not _no_word(one.symbol)]
        for name, intervals in alignments.items()
    }


def _no_word(symbol: str) -> bool:
    return is_silent(symbol, _SILENT_WORDS)
