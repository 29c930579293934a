"""Models of transformers: their own hidden states, alone and in a batch, read and changed."""

import pytest
import torch
import transformers

from distill.analysis.foreign_models import TransformersModel, is_foreign
from distill.analysis.hf_recognisers import is_ctc_model
from distill.analysis.models import OurModel, open_models
from distill.checkpoints import load_teacher
from distill.errors import CheckpointError, UsageError
from tests.analysis.tiny_transformers import KINDS, add_processor, make

WAVEFORMS = 0.1 * torch.randn(3, 9000, generator=torch.Generator().manual_seed(0)) + 0.05
LENGTHS = torch.tensor([9000, 7000, 9000])


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    made = make(request.param, tmp_path_factory.mktemp("models") / request.param)
    return add_processor(made, do_normalize=request.param.endswith("large"))


@pytest.fixture(scope="module")
def model(folder):
    return TransformersModel.load(str(folder), "m")


def test_layers_are_the_hidden_states_of_each_utterance_alone(folder, model):
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    found = model.activations(WAVEFORMS, LENGTHS)
    assert list(found.states) == ["cnn", "0", "1", "2", "3"] == list(model.transformer)
    for row, n_samples in enumerate(LENGTHS.tolist()):
        inputs = extractor(WAVEFORMS[row, :n_samples].numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            out = theirs(inputs.input_values, output_hidden_states=True)
            cnn = theirs.feature_extractor(inputs.input_values)[0].T
        states = [*out.hidden_states[:-1], out.last_hidden_state]
        for layer, state in zip(("cnn", *map(str, range(4))), (cnn, *(s[0] for s in states)), strict=True):
            torch.testing.assert_close(found.valid(layer)[row], state, atol=2e-4, rtol=2e-4)


def test_a_change_reaches_its_layer_and_those_above(model):
    before = model.activations(WAVEFORMS, LENGTHS, model.layers)
    for number, layer in enumerate(("input", *model.layers)):
        with model.injected(layer, lambda states: 1.5 * states + 1.0):
            after = model.activations(WAVEFORMS, LENGTHS, model.layers)
        changed = [name for name in model.layers if not torch.equal(before.states[name], after.states[name])]
        assert changed == list(model.layers[max(0, number - 1) :])
        if layer in ("conv2", "cnn", "0", "2"):
            torch.testing.assert_close(after.valid(layer)[1], 1.5 * before.valid(layer)[1] + 1.0)
    again = model.activations(WAVEFORMS, LENGTHS, model.layers)
    assert all(torch.equal(again.states[name], state) for name, state in before.states.items())


def test_a_change_knows_its_rows(model):
    scales = torch.tensor([1.0, 3.0, 1.0])[:, None, None]
    with model.injected("1", lambda states: states * scales[model.rows]):
        after = model.activations(WAVEFORMS, LENGTHS)
    before = model.activations(WAVEFORMS, LENGTHS)
    for layer in ("1", "3"):
        same = [torch.equal(a, b) for a, b in zip(before.valid(layer), after.valid(layer), strict=True)]
        assert same == [True, False, True]
    assert model.rows == slice(None)


def test_gradients_reach_the_waveforms(model):
    waveforms = WAVEFORMS.clone().requires_grad_()
    model.activations(waveforms, LENGTHS, ["3"]).states["3"].square().sum().backward()
    assert waveforms.grad is not None and waveforms.grad[:, :7000].abs().sum() > 0
    assert not waveforms.grad[1, 7000:].any()


def test_frames_hops_and_twins(model):
    found = model.activations(WAVEFORMS, LENGTHS, ["conv1", "3"])
    assert found.lengths["conv1"].tolist() == [1799, 1399, 1799]
    assert found.lengths["3"].tolist() == [27, 21, 27]
    assert [model.hop(layer) for layer in ("conv2", "cnn", "0")] == [10, 320, 320]
    assert model.receptive_field == 400
    twin, same, other = (model.random_twin(seed) for seed in (0, 0, 1))
    assert twin.identity == same.identity != other.identity
    with pytest.raises(UsageError, match="m has no layer '4'; it has conv1, .*, 3"):
        model.injected("4", lambda states: states)


@pytest.mark.parametrize("kind", ["hubert", "hubert-large", "wav2vec2", "wavlm"])
def test_ours_and_theirs_agree(kind, tmp_path):
    folder = add_processor(make(kind, tmp_path / kind), do_normalize=kind.endswith("large"))
    ours, theirs = OurModel(load_teacher(folder), "o"), TransformersModel.load(str(folder), "t")
    assert ours.layers == theirs.layers
    one, other = (m.activations(WAVEFORMS, LENGTHS, ours.layers) for m in (ours, theirs))
    for layer in ours.layers:
        for a, b in zip(one.valid(layer), other.valid(layer), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_what_is_ours_is_opened_as_ours(tmp_path):
    folders = [str(make(kind, tmp_path / kind)) for kind in ("hubert", "data2vec")]
    ours, theirs = open_models(folders)
    assert isinstance(ours, OurModel) and isinstance(theirs, TransformersModel)
    assert (ours.name, theirs.name) == ("hubert", "data2vec")


def test_other_models_are_refused(tmp_path):
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="holds a model of type 'bert'"):
        open_models([str(tmp_path / "bert")])
    folder = make("data2vec", tmp_path / "data2vec")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="data2vec: transformers cannot load it"):
        open_models([str(folder)])
    folder = add_processor(make("data2vec", tmp_path / "slow"), sampling_rate=8000)
    with pytest.raises(CheckpointError, match="is for speech at 8000 Hz"):
        open_models([str(folder)])


CONFIGURATIONS = ("{", "[]", "[" * 100_000, "\0", '{"architectures": 5, "model_type": []}', "x" * (2 << 20))


@pytest.mark.parametrize("content", CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_a_damaged_configuration_is_of_no_model(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert not is_foreign(str(tmp_path)) and not is_ctc_model(str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        open_models([str(tmp_path)])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
