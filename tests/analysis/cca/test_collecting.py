"""One pass over the speech: every layer at one rate, moments by piece, means by segment."""

import pytest
import torch

from distill.analysis.cca.collecting import Wanted, at_one_rate, collect
from distill.analysis.cca.moments import Moments
from distill.analysis.cca.segments import Instance
from distill.analysis.models import OurModel
from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.errors import DataError
from distill.hubert import HubertEncoder
from tests.analysis.cca.tones import small_model, spoken


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    return list(open_cuts(str(spoken(tmp_path_factory.mktemp("tones"), utterances=3))))


def alone(model, cut):
    wave = read_audio(cut)[None]
    found = model.activations(wave, torch.tensor([wave.shape[1]]), model.layers)
    return {layer: found.valid(layer)[0] for layer in model.layers}


def test_convolutions_are_averaged_between_frames_of_the_last(cuts):
    model = small_model()
    layers = alone(model, cuts[0])
    found = at_one_rate(layers, model, 320)
    assert {rows.shape[0] for rows in found.values()} == {len(layers["cnn"])}
    assert torch.equal(found["cnn"], layers["cnn"])
    assert torch.allclose(found["conv1"][5], layers["conv1"][5 * 64 : 6 * 64].mean(0), atol=1e-6)


def test_moments_and_means_are_those_of_utterances_alone(cuts):
    model = small_model()
    wanted = Wanted(
        ["conv2", "3"],
        views={"first": lambda wave, layers: layers["3"][:, :2]},
        pieces={"u00": [(0, 0)], "u01": [(0, 0), (1, 1)], "u02": [(0, 1)]},
        instances={"word": [Instance("u02", "a", 3, 9), Instance("u00", "b", 0, 1)]},
    )
    found = collect(model, cuts, wanted)
    rows = {cut.id: at_one_rate(alone(model, cut), model, 320) for cut in cuts}
    expected = Moments.of(
        *(torch.cat([rows[n]["3"][:, part] for n in ("u00", "u01")]) for part in (slice(None), slice(2)))
    )
    measured = found.frames[0, 0, "3"]
    assert measured.n == expected.n and torch.allclose(measured.xy, expected.xy, rtol=1e-3, atol=1e-3)
    assert found.frames[1, 1, "conv2"].n == len(rows["u01"]["3"])
    assert found.columns == {"first": slice(0, 2)}
    means = torch.stack([rows["u02"]["conv2"][3:9].mean(0), rows["u00"]["conv2"][0]])
    assert torch.allclose(found.pooled["word"]["conv2"], means, atol=1e-5)


def test_a_missing_utterance_is_said(cuts):
    wanted = Wanted(["3"], instances={"word": [Instance("u77", "a", 0, 1)]})
    with pytest.raises(DataError, match="the speech has no utterance u77"):
        collect(small_model(), cuts, wanted)


def test_a_segment_beyond_the_models_frames_is_said(cuts):
    wanted = Wanted(["3"], instances={"word": [Instance("u00", "a", 900, 999)]})
    with pytest.raises(DataError, match="m: u00: a has the frames 900 to 998"):
        collect(small_model(), cuts, wanted)


def test_hops_that_do_not_divide_each_other_are_refused():
    strides = tuple((8, 3, stride) for stride in (3, 2))
    model = OurModel(HubertEncoder.from_preset("mini", conv_layers=strides), "odd")
    layers = {"conv1": torch.zeros(9, 8), "1": torch.zeros(4, 8)}
    with pytest.raises(DataError, match="odd: the hop of layer conv1, 3 samples, does not divide 7"):
        at_one_rate(layers, model, 7)
