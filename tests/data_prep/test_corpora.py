"""Every corpus: what is found in its layout, against lhotse's recipes and against files written by hand."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.data_prep import CORPORA, PUBLISHED
from distill.downstream.probe import ProbeTask
from tests.paths import ROOT


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_every_split_of_every_layout_is_found_and_loads_at_16_khz(manifests, corpus):
    for split in PUBLISHED[corpus].splits:
        cuts = manifests(corpus, split.name)
        assert cuts, split.name
        assert len({cut.id for cut in cuts}) == len(cuts)
        samples = cuts[0].load_audio()
        assert samples.shape == (1, cuts[0].num_samples)
        assert cuts[0].sampling_rate == 16_000
        assert np.abs(samples).max() > 1e-3


@pytest.mark.parametrize("corpus", ["speech_commands", "fluent_commands", "iemocap"])
def test_classes_are_where_the_linear_probe_looks(manifests, corpus):
    cuts = manifests(corpus, PUBLISHED[corpus].splits[0].name)
    task = ProbeTask(cuts, cuts, cuts)
    assert len({task.label(cut) for cut in cuts}) >= 4


def test_manifests_open_and_read_as_training_does(layouts, tmp_path):
    CORPORA["wham"](layouts, tmp_path, splits=["tr"])
    (cut, *_) = open_cuts(tmp_path / "tr.jsonl.gz")
    both = soundfile.read(cut.recording.sources[0].source)[0]
    assert both.shape[1] == 2
    np.testing.assert_allclose(read_audio(cut).numpy(), both[:, 0], atol=1e-4)  # the first, not the mean


def test_published_figures_agree_with_themselves():
    """Sums that the authors give, which a mistyped number would break."""
    files = {name: [split.files or 0 for split in corpus.splits] for name, corpus in PUBLISHED.items()}
    assert sum(files["librispeech"][:3]) == 281_241  # the 960 hours
    assert sum(files["iemocap"]) == 5531
    assert sum(files["fsd50k"]) == 51_197
    assert sum(files["fluent_commands"]) == 30_043
    found = sum(files["speech_commands"][number] for number in (0, 1, 3))
    assert found == 64_727 + 6  # the background noises are in train and in dev
    assert files["timit"] == [462 * 8, 50 * 8, 24 * 8]
    assert sum(split.hours or 0 for split in PUBLISHED["fsd50k"].splits) == pytest.approx(108.3)


def test_every_corpus_is_in_the_documentation():
    text = (ROOT / "docs" / "corpora.md").read_text()
    for name, corpus in PUBLISHED.items():
        assert f"## {corpus.title}" in text and f"distill data prepare {name} --root" in text
        assert corpus.source.split()[0] in text
        for split in corpus.splits:
            assert f"`{split.name}`" in text or name == "chime3"
            for figure in (split.files, split.hours):
                assert figure is None or f"{figure:,}".replace(",", " ") in text, (split.name, figure)


def test_the_list_of_corpora_needs_no_lhotse():
    lines = (
        "import sys; sys.modules['lhotse'] = None",
        "from distill.data_prep import PUBLISHED",
        "print(len(PUBLISHED))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(PUBLISHED) == 12
