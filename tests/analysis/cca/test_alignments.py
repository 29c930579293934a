"""Alignments of every source in the time of the cut; what cannot be right is refused in one line."""

import logging

import pytest
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem

from distill.analysis.cca.alignments import read_alignments
from distill.analysis.cca.segments import Interval
from distill.data.sources import open_cuts
from distill.errors import DataError, UsageError

WORDS = [Interval("yes", 0.25, 0.5), Interval("no", 0.5, 1.0)]


def recording(name: str, seconds: float = 2.0) -> Recording:
    return Recording(
        id=name, sources=[], sampling_rate=16_000, num_samples=int(seconds * 16_000), duration=seconds
    )


def cut_of(name: str, *, start: float = 0.0, duration: float = 2.0, of: Recording | None = None) -> MonoCut:
    whole = of or recording(name, duration)
    return MonoCut(id=name, start=start, duration=duration, channel=0, recording=whole, supervisions=[])


def spoken(name: str, items: list[Interval], tier: str = "word", *, seconds: float = 2.0) -> MonoCut:
    alignment = {tier: [AlignmentItem(one.symbol, one.start_s, one.end_s - one.start_s) for one in items]}
    cut = cut_of(name, duration=seconds)
    cut.supervisions = [SupervisionSegment(name, name, start=0, duration=seconds, alignment=alignment)]
    return cut


def textgrid(intervals: list[Interval], name: str = "words") -> str:
    rows = "".join(f'{start}\n{end}\n"{symbol}"\n' for symbol, start, end in intervals)
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n1\n'
    return f'{head}"IntervalTier"\n"{name}"\n0\n2\n{len(intervals)}\n{rows}'


def near(found: list[Interval], expected: list[Interval]) -> bool:
    flat = [value for one in expected for value in one[1:]]
    same = [one.symbol for one in found] == [one.symbol for one in expected]
    return same and [value for one in found for value in one[1:]] == pytest.approx(flat, abs=1e-9)


def test_the_mini_corpora_hold_their_own(mini_data):
    cuts = list(open_cuts(str(mini_data / "speech_train.jsonl.gz")))
    for tier in ("word", "phone"):
        found = read_alignments(None, cuts, tier)
        assert list(found) == [cut.id for cut in cuts]
        for cut in cuts:
            items = cut.supervisions[0].alignment[tier]
            assert near(found[cut.id], [Interval(one.symbol, one.start, one.end) for one in items])
            if tier == "word":
                assert [one.symbol for one in found[cut.id]] == cut.supervisions[0].text.split()


@pytest.mark.parametrize("moved", ["truncated", "windowed", "appended", "faster"])
def test_alignments_follow_cuts_that_are_parts(moved):
    whole = spoken("a", [Interval("one", 0.2, 0.5), Interval("two", 0.9, 1.2), Interval("three", 1.3, 1.9)])
    if moved == "truncated":  # "one" is cut in two
        cut, expected = whole.truncate(offset=0.3), [Interval("two", 0.6, 0.9), Interval("three", 1.0, 1.6)]
    elif moved == "windowed":
        cut = next(cut for cut in whole.cut_into_windows(1.25) if cut.start > 1)
        expected = [Interval("three", 0.05, 0.65)]
    elif moved == "appended":
        cut = whole.truncate(offset=0.8).append(spoken("b", [Interval("four", 0.1, 0.4)]))
        expected = [Interval("two", 0.1, 0.4), Interval("three", 0.5, 1.1), Interval("four", 1.3, 1.6)]
    else:
        cut, expected = whole.perturb_speed(2.0), [Interval("one", 0.1, 0.25), Interval("two", 0.45, 0.6)]
        expected.append(Interval("three", 0.65, 0.95))
    found = read_alignments("supervisions", [cut], "word")
    assert near(found[cut.id], expected)


def test_times_from_the_start_of_the_cut_in_a_supervision_are_noticed():
    cut = spoken("a", [Interval("one", 0.2, 0.5)]).truncate(offset=0, preserve_id=True)
    cut.start, cut.recording = 5.0, recording("a", 9.0)
    with pytest.raises(
        DataError, match=r"a \(words\): 'one' \(0.200-0.500 s\) is outside its supervision \(5.000"
    ):
        read_alignments(None, [cut], "word")


@pytest.mark.parametrize("layout", ["flat", "speakers", "ids with folders", "ctm"])
def test_files_by_the_name_of_the_utterance(tmp_path, layout):
    names = {"ids with folders": ["x/a", "y/a"]}.get(layout, ["a", "b.1"])
    if layout == "ctm":
        lines = [f"{name} 1 {one[1]} {one[2] - one[1]} {one[0]}" for name in names for one in reversed(WORDS)]
        (tmp_path / "all.ctm").write_text("\n".join([*lines, "unheard 1 0 99 yes"]))
    else:
        for name in names:
            path = tmp_path / "grids" / ("s1" if layout == "speakers" else ".") / f"{name}.TextGrid"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textgrid([*WORDS, Interval(" ", 1.0, 2.0)], "s1 - words"))
    source = tmp_path / ("all.ctm" if layout == "ctm" else "grids")
    found = read_alignments(str(source), [cut_of(name) for name in names], "word")
    assert found == dict.fromkeys(names, WORDS)


def test_a_file_of_the_recording_serves_its_parts(tmp_path):
    (tmp_path / "rec.ctm").write_text(
        "rec 1 0.25 0.25 yes\nrec 1 0.5 0.5 no\nrec 1 3 0.5 on\nrec 1 3.9 0.3 off\n"
    )
    whole = recording("rec", 5.0)
    parts = [cut_of("rec-000", of=whole), cut_of("rec-001", start=2.0, of=whole)]
    found = read_alignments(str(tmp_path / "rec.ctm"), parts, "word")
    assert found == {"rec-000": WORDS, "rec-001": [Interval("on", 1.0, 1.5)]}
    cut = cut_of("rec", start=2.0, of=whole)  # a part that kept the name
    assert read_alignments(str(tmp_path / "rec.ctm"), [cut], "word") == {"rec": [Interval("on", 1.0, 1.5)]}


def test_two_files_of_a_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.TextGrid").write_text(textgrid([Interval(folder, 0.25, 0.5)]))
    found = read_alignments(str(tmp_path), [cut_of("dev/x/a"), cut_of("dev/y/a")], "word")
    assert [one[0].symbol for one in found.values()] == ["x", "y"]
    with pytest.raises(DataError, match="x/a, y/a may all be the alignment of a$"):
        read_alignments(str(tmp_path), [cut_of("a")], "word")
    with pytest.raises(DataError, match="x/a may be the alignment of p/x/a or of q/x/a"):
        read_alignments(str(tmp_path), [cut_of("p/x/a"), cut_of("q/x/a")], "word")


@pytest.mark.parametrize("tier, name", [("word", "Word"), ("phone", "PHONES"), ("phone", "a - b - phoneme")])
def test_tiers_by_name(tmp_path, tier, name):
    (tmp_path / "a.textgrid").write_text(textgrid(WORDS, name))
    assert read_alignments(str(tmp_path / "a.textgrid"), [cut_of("a")], tier) == {"a": WORDS}


def test_a_missing_tier_is_named_with_those_that_exist(tmp_path):
    (tmp_path / "a.TextGrid").write_text(textgrid(WORDS, "sentences"))
    with pytest.raises(DataError, match="a.TextGrid has no tier of phones; its tiers are sentences"):
        read_alignments(str(tmp_path), [cut_of("a")], "phone")
    with pytest.raises(
        DataError, match=r"supervisions .* no phone alignment of any of 1 .* \(the supervisions have word"
    ):
        read_alignments(None, [spoken("a", WORDS)], "phone")
    with pytest.raises(UsageError, match="word or phone, not 'syllable'"):
        read_alignments(None, [], "syllable")


def test_missing_utterances_are_counted(tmp_path, caplog):
    (tmp_path / "a.TextGrid").write_text(textgrid(WORDS))
    with caplog.at_level(logging.WARNING):
        found = read_alignments(str(tmp_path), [cut_of("b"), cut_of("a"), cut_of("c")], "word")
    assert (
        list(found) == ["a"]
        and "2 of 3 utterances have no word alignment and are left out: b, c" in caplog.text
    )
    with pytest.raises(DataError, match="no word alignment of any of 2 utterances, such as b: give"):
        read_alignments(str(tmp_path), [cut_of("b"), cut_of("c")], "word")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no TextGrid files"):
        read_alignments(str(tmp_path / "empty"), [cut_of("b")], "word")
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_alignments(str(tmp_path / "nowhere"), [cut_of("b")], "word")


def test_silent_utterances_are_not_missing(tmp_path):
    (tmp_path / "a.TextGrid").write_text(textgrid([Interval("", 0, 2)]))
    assert read_alignments(str(tmp_path), [cut_of("a")], "word") == {"a": []}


@pytest.mark.parametrize("source", ["supervisions", "ctm"])
@pytest.mark.parametrize(
    "intervals, message",
    [
        ([Interval("on", 1.5, 2.03)], r"'on' \(1.500-2.030 s\) is beyond the audio, which has 2.000 s"),
        ([Interval("on", -0.03, 0.5)], "begins before the audio"),
        ([Interval("on", 1.5, 1.4)], "ends before it begins"),
        (
            [Interval("on", 0.5, 1.0), Interval("off", 0.97, 1.2)],
            r"'on' \(0.500-1.000 s\) and 'off' .* overlap",
        ),
    ],
)
def test_impossible_times_are_refused(tmp_path, source, intervals, message):
    cut = spoken("a", intervals)
    if source == "ctm":
        lines = [f"a 1 {start} {end - start} {symbol}" for symbol, start, end in intervals]
        (tmp_path / "x.ctm").write_text("\n".join(lines))
        source = str(tmp_path / "x.ctm")
    with pytest.raises(DataError, match=message) as error:
        read_alignments(source, [cut], "word")
    assert "\n" not in str(error.value) and "a" in str(error.value)


def test_a_frame_too_much_is_clipped_and_nothing_is_dropped(caplog):
    rounded = [Interval("on", -0.01, 0.51), Interval("off", 0.5, 0.5), Interval("up", 0.5, 2.015)]
    found = read_alignments(None, [spoken("a", rounded)], "word")
    assert near(found["a"], [Interval("on", 0.0, 0.51), Interval("up", 0.5, 2.0)])
    assert "1 intervals of no length are left out" in caplog.text


def test_two_files_that_differ_in_their_suffix_are_refused(tmp_path):
    for suffix in ("TextGrid", "textgrid"):
        (tmp_path / f"a.{suffix}").write_text(textgrid(WORDS))
    with pytest.raises(DataError, match="a.TextGrid and .*a.textgrid have the same name"):
        read_alignments(str(tmp_path), [cut_of("a")], "word")


@pytest.mark.parametrize("item", [("on", None, 0.5), ("on", "first", 0.5)])
def test_items_that_are_none_are_refused(item):
    cut = spoken("a", WORDS)
    cut.supervisions[0].alignment["word"].append(AlignmentItem(*item))
    with pytest.raises(DataError, match=r"a \(words\): an item is not \[SYMBOL, START, DURATION\]"):
        read_alignments(None, [cut], "word")


def test_padding_and_mixing_move_alignments():
    cut = spoken("a", WORDS)
    padded = cut.pad(duration=3.0, direction="left")
    assert near(
        read_alignments(None, [padded], "word")[padded.id],
        [one._replace(start_s=one[1] + 1, end_s=one[2] + 1) for one in WORDS],
    )
    mixed = cut.mix(cut_of("noise", duration=2.0))
    assert near(read_alignments(None, [mixed], "word")[mixed.id], WORDS)


def test_two_cuts_of_a_name_are_refused():
    with pytest.raises(DataError, match="two utterances are called a"):
        read_alignments(None, [spoken("a", WORDS), spoken("a", WORDS)], "word")
