"""Lines of a manifest that are no cuts, and files that are no manifests."""

import gzip
import json
import re

import pytest

from distill.data.audio import read_audio
from distill.data.dataset import SpeechDataset
from distill.data.manifest import ManifestCuts
from distill.data.sources import index_cuts, open_cuts
from distill.data.unusable import why_unusable
from distill.errors import DataError
from distill.preflight.survey import survey
from tests.distill.data.manifests import packed

BROKEN = [
    (lambda text: text + '{"id": "x"}\n', 24, "no cut"),
    (lambda text: text[:-20], 23, "not valid JSON"),
    (lambda text: text.replace('{"id"', "id", 1), 1, "not valid JSON"),
    (lambda text: "\n\n" + text.replace("MonoCut", "SomeCut", 1), 3, "no cut"),
    (lambda text: text + '{"id": "x", "sources": []}\n', 24, "a recording, not a cut"),
    (lambda text: text.replace('"duration": 0.', '"duration": NaN, "x": 0.', 1), 1, "no cut that lhotse"),
    (lambda text: text.replace('"id": "', '"id": "\\udcff', 1), 1, "not Unicode"),
    (lambda text: text.replace('"duration": 0.', '"duration": 1e300', 1), 1, "of inf seconds"),
    (lambda text: re.sub('(\n.*?)"recording": ', r'\1"custom": ', text, count=1), 2, "without a recording"),
    (lambda text: text + "[1, 2]\n", 24, "a JSON list, not a cut"),
    (lambda text: text + "[" * 100_000 + "\n", 24, "not valid JSON"),
]


@pytest.mark.parametrize("harm, line, what", BROKEN)
@pytest.mark.parametrize("prepare", [lambda path: path, packed])
def test_a_bad_line_is_one_utterance_that_cannot_be_used(manifest, harm, line, what, prepare):
    text = manifest.read_text()
    manifest.write_text(harm(text))
    path = prepare(manifest)
    for cuts in (index_cuts(str(path)), list(open_cuts(str(path)))):
        bad = [cut for cut in cuts if why_unusable(cut)]
        assert [cut.id for cut in bad] == [f"line {line} of {path.name}"]
        assert len(list(cuts)) in (23, 24)
        with pytest.raises(DataError, match=f"^[^ ]*{path.name}, line {line}: .*{what}") as error:
            read_audio(bad[0])
        assert "\n" not in str(error.value)
    found = survey(str(path), sample=None, seed=0)
    assert len(found.bad) == 1 and found.bad[0].startswith(f"{path}, line {line}: ")
    batch = SpeechDataset(index_cuts(str(path)))[0, 0, range(len(list(cuts)))]
    assert [name for name, _ in batch.skipped] == [f"line {line} of {path.name}"] and len(batch) >= 22


@pytest.mark.parametrize("n_bytes", [15, 300, -30, -1])
def test_a_manifest_that_is_cut_off_is_refused(manifest, n_bytes):
    path = packed(manifest)
    path.write_bytes(path.read_bytes()[:n_bytes])
    for read in (ManifestCuts, lambda path: list(open_cuts(path)), index_cuts):
        with pytest.raises(
            DataError,
            match=r"cuts.jsonl.gz: (is cut off after line|not a lhotse cut .*; copy or prepare it again$)",
        ) as error:
            read(path)
        assert "\n" not in str(error.value)
    assert not list(manifest.parent.glob(".index/*/"))
    assert "cut" in survey(str(path), sample=None, seed=0).error


def test_several_compressed_files_in_one(manifest):
    path = packed(manifest)
    path.write_bytes(2 * path.read_bytes())
    assert len(index_cuts(str(path))) == len(list(open_cuts(str(path)))) == 46


OTHERS = {
    "recording": {"id": "a", "sources": [], "sampling_rate": 16_000, "num_samples": 1, "duration": 1.0},
    "supervision": {"id": "a", "recording_id": "a", "start": 0, "duration": 1},
    "NeMo": {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"},
    "features": {"type": "fbank", "num_features": 80, "recording_id": "a"},
    "array": {"array": {"shape": [1]}, "temporal_dim": 0},
    "no cut": {"key": "a", "wav": "a.wav"},
    "no recording": {"id": "a", "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_manifests_are_refused_saying_what_they_are(tmp_path, what):
    path = tmp_path / "x.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n" + 3 * (json.dumps(OTHERS[what]) + "\n"))
    for read in (open_cuts, index_cuts):
        with pytest.raises(DataError, match=f"x.jsonl.gz: .*{what}") as error:
            read(str(path))
        assert "\n" not in str(error.value)
    assert what in survey(str(path), sample=None, seed=0).error
