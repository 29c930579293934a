"""CTC models of transformers: their own transcripts, errors, losses; vocabularies that do not fit."""

import numpy as np
import pytest
import soundfile
import torch
import transformers
from rapidfuzz.distance import Levenshtein

from distill.analysis.hf_recognisers import TransformersRecogniser
from distill.analysis.recognisers import open_recognisers
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet
from distill.errors import CheckpointError, DataError, UserError
from tests.analysis.tiny_transformers import SYMBOLS, add_processor, make

TEXTS = ("He said it\u2019s  A cat", "two dogs", "so it is")


def write_speech(folder, texts=TEXTS):
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = ["path\ttext"]
    for number, text in enumerate(texts):
        soundfile.write(
            folder / f"{number}.wav", 0.1 * generator.standard_normal(24_000 + 4000 * number), 16_000
        )
        rows.append(f"{number}.wav\t{text}")
    (folder / "all.tsv").write_text("\n".join(rows) + "\n")
    return open_cuts(str(folder / "all.tsv"))


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    return write_speech(tmp_path_factory.mktemp("speech") / "speech")


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "hubert-large", "wavlm", "data2vec"])
def test_transcripts_and_losses_are_those_of_transformers(kind, cuts, tmp_path):
    folder = add_processor(make(kind, tmp_path / kind, ctc=True), do_normalize=kind != "hubert")
    (recogniser,) = open_recognisers([str(folder)])
    assert (recogniser.name, recogniser.metrics) == (kind, ("wer", "cer"))
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    recogniser.check(list(cuts))
    ((batch, waveforms, lengths, _),) = DistortedSet(cuts, "clean").batches(3)
    outputs, frames = recogniser.outputs(waveforms, lengths)
    found, losses = recogniser.recognise(outputs, frames, batch), recogniser.loss(outputs, frames, batch)
    assert [each.truth for each in found] == ["HE SAID IT'S A CAT", "TWO DOGS", "SO IT IS"]
    for row, each in enumerate(found):
        waveform = waveforms[row, : lengths[row]].numpy()
        inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt").input_values
        target = torch.tensor([processor.tokenizer(each.truth).input_ids])
        with torch.no_grad():
            out = model(inputs, labels=target)
        (text,) = processor.batch_decode(out.logits.argmax(-1))
        said, truth = text.split(), each.truth.split()
        assert each.prediction == " ".join(said) and len(each.prediction) > 3
        assert each.errors == {
            "wer": (Levenshtein.distance(said, truth), len(truth)),
            "cer": (Levenshtein.distance(each.prediction, each.truth), len(each.truth)),
        }
        assert float(losses[row]) == pytest.approx(float(out.loss), rel=1e-4)


def test_what_the_vocabulary_lacks_is_named(tmp_path):
    folder = add_processor(make("hubert", tmp_path / "m", ctc=True), do_normalize=False)
    (recogniser,) = open_recognisers([str(folder)])
    odd = list(write_speech(tmp_path / "speech", ["a, b", "c3 pipes | two", "d"]))
    lacks = r"m does not fit the transcripts, it lacks ',' in .*, '3' in .* and '\|' in .*: spell them"
    with pytest.raises(DataError, match=lacks.replace(" and ", ", ")):
        recogniser.check(odd)
    with pytest.raises(DataError, match="has no transcript"):
        recogniser.check(list(open_cuts(str(tmp_path / "speech"))))


def test_the_vocabularys_case(cuts, tmp_path):
    symbols = [symbol if symbol.startswith("<") else symbol.lower() for symbol in SYMBOLS]
    folder = add_processor(make("hubert", tmp_path / "m", ctc=True), symbols=symbols, do_normalize=False)
    vocabulary = TransformersRecogniser(str(folder), "m").vocabulary
    assert vocabulary.normalised(TEXTS[0]) == "he said it's a cat"
    assert vocabulary.targets("a b") == [4, 2, 5]


def test_vocabularies_that_do_not_fit(tmp_path):
    def fails(kind, message, *, symbols=SYMBOLS, **settings):
        folder = add_processor(make("hubert", tmp_path / kind, ctc=True, **settings), symbols=symbols)
        with pytest.raises(CheckpointError, match=message):
            open_recognisers([str(folder)])

    fails(
        "few",
        "few: the vocabulary does not fit the model, which has 20 outputs: no output for Q, R, S and 7",
        vocab_size=20,
    )
    fails("blank", "the blank is number 3 in config.json .*, but 0 among the tokens", pad_token_id=3)
    words = ("<pad>", "<unk>", "|", *(f"{a}{b}" for a in "aeiou" for b in "bdfgk"))
    fails(
        "words", "words: its vocabulary is not one of characters with a symbol between words", symbols=words
    )


def test_models_without_a_head_or_a_processor(tmp_path):
    with pytest.raises(UserError, match="plain has no head that recognises speech: train one with"):
        open_recognisers([str(make("wav2vec2", tmp_path / "plain"))])
    with pytest.raises(CheckpointError, match=r"bare has no preprocessor_config.json"):
        open_recognisers([str(make("wav2vec2", tmp_path / "bare", ctc=True))])
    with pytest.raises(CheckpointError, match="some/model: transformers cannot load it"):
        open_recognisers(["some/model"])  # offline
