import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, SupervisionSegment

from distill.adaptation.fairseq_labels import export_fairseq, write_manifest
from distill.adaptation.targets import Targets
from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.errors import DataError
from tests.distill.adaptation.small_targets import make


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Five files in two folders, one of them stereo."""
    root = tmp_path_factory.mktemp("fairseq")
    rng = np.random.default_rng(0)
    for index, name in enumerate(("a/one", "a/two", "b/three", "b/c/four", "b/c/five")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * rng.standard_normal((4_000 + 1_111 * index, 1 + (index == 3)))
        soundfile.write(root / f"{name}.flac", samples, 16_000)
    return root


@pytest.fixture(scope="module")
def cuts(speech):
    return open_cuts(str(speech))


@pytest.fixture(scope="module")
def targets(cuts, tmp_path_factory):
    return make(cuts, tmp_path_factory.mktemp("targets"), n_clusters=12, seed=0)


class FairseqReader:
    """What fairseq's documentation says that its HuBERT task does with a folder, written independently.

    The .tsv names a root and then, tab-separated, path and number of samples; line i of the .km belongs to
    line i of those; its words are looked up in the dictionary, whose numbers start after four special
    symbols; and labels and audio must agree in duration to a tenth of a second.
    """

    def __init__(self, folder: Path, split: str, label_rate: float):
        root, *lines = (folder / f"{split}.tsv").read_text().split("\n")
        assert lines.pop() == ""
        self.files = [(Path(root) / path, int(size)) for path, size in (line.split("\t") for line in lines)]
        numbers = {}
        for line in (folder / "dict.km.txt").read_text().splitlines():
            symbol, count = line.rsplit(" ", 1)
            assert int(count) > 0 and symbol not in numbers
            numbers[symbol] = 4 + len(numbers)
        self.n_symbols = 4 + len(numbers)
        texts = (folder / f"{split}.km").read_text().splitlines()
        assert len(texts) == len(self.files)
        self.labels = [[numbers[word] for word in text.split()] for text in texts]
        for (_, size), labels in zip(self.files, self.labels, strict=True):
            assert abs(size / 16_000 - len(labels) / label_rate) < 0.1


def test_fairseq_reads_back_every_label(cuts, targets, tmp_path):
    said = export_fairseq({"train": (cuts, targets), "valid": (cuts.subset(first=2), targets)}, tmp_path)
    assert said == (
        f"task.data={tmp_path} task.label_dir={tmp_path} task.labels='[\"km\"]' "
        "model.label_rate=50 task.sample_rate=16000"
    )
    for split, ids in (("train", [c.id for c in cuts]), ("valid", [c.id for c in cuts][:2])):
        found = FairseqReader(tmp_path, split, label_rate=50)
        assert found.n_symbols == 4 + 12
        for name, (path, size), labels in zip(ids, found.files, found.labels, strict=True):
            assert path.as_posix().endswith(f"{name}.flac")
            info = soundfile.info(path)
            assert (info.frames, info.samplerate) == (size, 16_000)
            assert np.array_equal(np.array(labels) - 4, targets.labels[name])


def test_cuts_without_labels_are_left_out(cuts, targets, tmp_path):
    few = dataclasses.replace(targets, labels={n: targets.labels[n] for n in ("a/two", "b/c/five")})
    export_fairseq({"train": (cuts, few)}, tmp_path)
    found = FairseqReader(tmp_path, "train", label_rate=50)
    assert [path.stem for path, _ in found.files] == ["two", "five"]
    with pytest.raises(DataError, match="train: not one utterance has labels"):
        export_fairseq({"train": (cuts, dataclasses.replace(targets, labels={}))}, tmp_path)


def test_what_fairseq_cannot_read_is_refused(cuts, targets, speech, tmp_path):
    one = next(iter(cuts))
    part = one.truncate(duration=0.1, preserve_id=True)
    later = one.truncate(offset=0.1, preserve_id=True)
    slow = one.resample(8_000)
    for wrong in (part, later, slow):
        with pytest.raises(DataError, match=f"{one.id} is not an entire audio file at 16 kHz.*data distort"):
            export_fairseq({"train": (CutSet([wrong]), targets)}, tmp_path)
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "a\tb.flac").write_bytes((speech / "a" / "one.flac").read_bytes())
    labels = {"a\tb": targets.labels["a/one"]}
    with pytest.raises(DataError, match="cannot be a line of fairseq's .tsv"):
        export_fairseq(
            {"train": (open_cuts(str(odd)), dataclasses.replace(targets, labels=labels))}, tmp_path
        )
    other = Targets(torch.zeros(13, 39), targets.labels, "mfcc", 0)
    with pytest.raises(ValueError, match=r"one codebook, not have \[12, 13\]"):
        export_fairseq({"train": (cuts, targets), "valid": (cuts, other)}, tmp_path)


def test_labels_in_a_lhotse_manifest(cuts, targets, tmp_path):
    first, *rest = cuts
    first.supervisions = [SupervisionSegment("s", first.recording_id, 0, first.duration, text="one")]
    first.custom = {"label": "x"}
    few = dataclasses.replace(targets, labels={k: v for k, v in targets.labels.items() if k != rest[0].id})
    path = write_manifest(CutSet([first, *rest]), few, tmp_path / "cuts.jsonl.gz")
    found = {cut.id: cut for cut in CutSet.from_file(path)}
    assert list(found) == [c.id for c in [first, *rest[1:]]]
    for name, cut in found.items():
        assert np.array_equal(np.array(cut.custom["kmeans"].split(), int), targets.labels[name])
        assert torch.equal(read_audio(cut), read_audio(cuts[name]))
    assert found[first.id].custom["label"] == "x" and found[first.id].supervisions[0].text == "one"
    assert first.custom == {"label": "x"}
    assert [p.name for p in tmp_path.iterdir()] == ["cuts.jsonl.gz"]
