"""Manifests of the shared speech."""

import pytest
from lhotse import CutSet, SupervisionSegment
from lhotse.cut import MixedCut


@pytest.fixture
def manifest(cuts, tmp_path):
    """Of the shared speech, with supervisions, odd names and a mixed cut."""
    made = list(cuts)
    made[0].supervisions = [
        SupervisionSegment(id="s", recording_id=made[0].id, start=0, duration=0.1, text='say "duration": 7')
    ]
    made[1].id = 'a "quoted" \\ näme'
    made[2].custom = {"label": "yes"}
    mixed = made[3].append(made[4])
    assert isinstance(mixed, MixedCut)
    path = tmp_path / "cuts.jsonl"
    CutSet.from_cuts([*made, mixed]).to_file(path)
    return path
