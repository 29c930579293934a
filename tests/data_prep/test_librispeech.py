"""LibriSpeech against lhotse's recipe."""

from lhotse.recipes import prepare_librispeech

from distill.data_prep import PUBLISHED
from tests.data_prep.corpora import spoken


def test_librispeech_is_what_lhotse_finds(layouts, manifests):
    theirs = prepare_librispeech(layouts / "LibriSpeech")
    assert set(theirs) == {
        s.name for name in ("librispeech", "mini_librispeech") for s in PUBLISHED[name].splits
    }
    for split, parts in theirs.items():
        corpus = "mini_librispeech" if split in ("train-clean-5", "dev-clean-2") else "librispeech"
        ours = {cut.id: cut for cut in manifests(corpus, split)}
        assert set(ours) == set(parts["recordings"].ids)
        for segment in parts["supervisions"]:
            cut, recording = ours[segment.id], parts["recordings"][segment.id]
            assert (spoken(cut).text, spoken(cut).speaker) == (segment.text, segment.speaker)
            assert spoken(cut).text.isupper()
            assert cut.duration == recording.duration
            assert cut.recording.sources[0].source == str(recording.sources[0].source)
            words = [item for item in segment.alignment["word"] if item.symbol]
            assert spoken(cut).alignment["word"] == words
            assert " ".join(item.symbol for item in words) == segment.text
