"""Lists of utterances, and a manifest that is read from front to back."""

import pytest
from lhotse import CutSet

from distill.adaptation.utterances import CutReader, list_utterances
from distill.data.sources import open_cuts
from distill.errors import DataError
from tests.distill.adaptation.small_targets import make, same


def test_ids_are_unique_and_there_are_some(cuts):
    assert list_utterances(cuts).ids == [f"u{index}" for index in range(8)]
    with pytest.raises(DataError, match="both called u0; names must differ"):
        list_utterances(CutSet([*cuts, next(iter(cuts))]))
    with pytest.raises(DataError, match="no utterances"):
        list_utterances(CutSet([]))


def test_a_lazy_manifest_is_read_once(cuts, tmp_path):
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    lazy = open_cuts(str(tmp_path / "cuts.jsonl.gz"))
    started = []

    class Counting:
        def __iter__(self):
            started.append(1)
            return iter(lazy)

    forward = CutReader(Counting())  # pyright: ignore[reportArgumentType]
    names = [[cut.id for cut in forward.take(r)] for r in (range(1, 3), range(5, 8), range(0, 2))]
    assert names == [["u1", "u2"], ["u5", "u6", "u7"], ["u0", "u1"]]
    assert len(started) == 2  # once more for going back
    assert same(make(lazy, tmp_path / "lazy"), make(cuts, tmp_path / "eager"))
