"""Reading a manifest by line: the same cuts as lhotse's own reader, made once, remade when it changes."""

import json
import multiprocessing

import numpy as np
import pytest
from lhotse import CutSet

from distill.data.manifest import JoinedCuts, ListedCuts, ManifestCuts
from distill.data.sources import index_cuts
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
