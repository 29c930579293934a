"""Reading a manifest by line: the same cuts as lhotse's own reader, made once, remade when it changes."""

import json
import multiprocessing

import numpy as np
import pytest
from lhotse import CutSet

from distill.data.manifest import JoinedCuts, ListedCuts, ManifestCuts, at_least, fingerprint
from distill.data.sources import index_cuts
from distill.data.unusable import unusable_cut
from distill.errors import DataError
from tests.distill.data.manifests import packed


@pytest.mark.parametrize("prepare", [lambda path: path, packed])
def test_cuts_are_those_that_lhotse_reads(manifest, prepare):
    path = prepare(manifest)
    ours, theirs = ManifestCuts(path), list(CutSet.from_jsonl_lazy(path))
    assert len(ours) == len(theirs) == 23
    assert list(ours) == theirs and ours[7] == theirs[7]
    assert np.allclose(ours.durations(np.arange(23)), [cut.duration for cut in theirs])
    assert ours.durations(np.array([5, 2])).tolist() == pytest.approx([theirs[i].duration for i in (5, 2)])
    assert ours.seconds == pytest.approx(sum(cut.duration for cut in theirs))
    with pytest.raises(IndexError, match="no cut 23, it has 23"):
        ours[23]


def test_short_utterances_are_left_out_and_unusable_ones_are_not(manifest):
    listed = ListedCuts([*CutSet.from_jsonl_lazy(manifest)])
    manifest.write_text(manifest.read_text() + "broken\n")
    for cuts in (ManifestCuts(manifest), listed):
        assert at_least(cuts, 0) is cuts and at_least(cuts, 1) is cuts
        lengths = np.rint(cuts.durations(np.arange(len(cuts))) * 16_000)
        least = int(np.median(lengths))
        kept = at_least(cuts, least)
        expected = [cut.id for cut, n in zip(cuts, lengths, strict=True) if n >= least or n == 0]
        assert [kept[number].id for number in range(len(kept))] == expected and len(expected) < len(cuts)
        numbers = np.array([3, 0])
        assert kept.durations(numbers).tolist() == pytest.approx([kept[3].duration, kept[0].duration])
        assert kept.seconds == pytest.approx(sum(kept.durations(np.arange(len(kept)))))
        assert fingerprint(kept) != fingerprint(cuts)
        both = JoinedCuts([cuts, cuts])
        assert [cut.id for cut in at_least(both, least)] == 2 * expected
    gone = unusable_cut("gone", "gone.wav: no such file", {})
    assert list(at_least(ListedCuts([*cuts, gone]), 10**6)) == [gone]
    with pytest.raises(DataError, match=r"all 23 utterances are shorter than 62\.5 s"):
        at_least(cuts, 10**6)


def test_other_orders_of_keys_and_blank_lines(manifest):
    lines = manifest.read_text().splitlines()[:3]
    shuffled = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]
    manifest.write_text("\n\n".join(shuffled) + "\n\n")
    assert [cut.id for cut in ManifestCuts(manifest)] == [json.loads(line)["id"] for line in lines]
    assert ManifestCuts(manifest).durations(np.arange(3)).tolist() == pytest.approx(
        [json.loads(line)["duration"] for line in lines]
    )


def _length_and_first(cuts, answer) -> None:
    answer.put((len(cuts), cuts[3].id, cuts.durations(np.array([3])).tolist()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_it_too(manifest, method):
    cuts = ManifestCuts(manifest)
    expected = (23, cuts[3].id, cuts.durations(np.array([3])).tolist())
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    process = context.Process(target=_length_and_first, args=(cuts, answer))
    process.start()
    assert answer.get(timeout=60) == expected
    process.join()


def test_sources_follow_each_other(manifest, speech, noise_folder):
    joined = index_cuts([str(manifest), str(speech), str(noise_folder)])
    assert isinstance(joined, JoinedCuts) and len(joined) == 23 + 22 + 4
    every = list(joined)
    assert [cut.id for cut in every[-4:]] == ["a", "b", "deep/c", "deep/d"] and every[23].id == "u00"
    numbers = np.array([48, 0, 23, 22, 44, 45])
    assert joined.durations(numbers).tolist() == pytest.approx([every[i].duration for i in numbers])
    assert joined.seconds == pytest.approx(sum(cut.duration for cut in every))
    assert isinstance(index_cuts(str(speech)), ListedCuts)
