"""Heads on our models: the errors are those of `distill evaluate`, and the loss can be attacked."""

import json
import shutil

import pytest
import torch

from distill.analysis.recognisers import open_recognisers
from distill.data.noise import NoiseReader
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.evaluate import evaluate
from distill.downstream.speech import TaskSpeech
from distill.errors import DataError, UsageError, UserError

METRICS = {"ks": ("error",), "asr": ("wer", "cer"), "pr": ("per",)}


def score(path):
    result = json.loads(path.read_text())
    return 100 - result["value"] if result["metric"] == "accuracy" else result["value"]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("ks", {"features": "weighted_sum", "protocol": "s3prl"}),
        ("ic", {"finetune": True}),
        ("asr", {"features": "layer:1"}),
        ("pr", {}),
    ],
)
def test_errors_are_those_of_the_evaluation(task, options, quick, student, tmp_path):
    config = quick(task, conditions=["clean"], **options)
    (result,) = evaluate(student, config, tmp_path)
    (folder,) = (tmp_path / "heads").iterdir()
    (recogniser,) = open_recognisers([f"{student}@{folder}"])
    assert recogniser.metrics == METRICS.get(task, ("error",)) and recogniser.name == "tiny"
    cuts = TaskSpeech(config).test("clean", None)
    recogniser.check(cuts)
    found = []
    for batch, waveforms, lengths, _ in DistortedSet(cuts, "clean", NoiseReader({})).batches(5):
        waveforms.requires_grad_()
        outputs, frames = recogniser.outputs(waveforms, lengths)
        found += recogniser.recognise(outputs, frames, batch)
        losses = recogniser.loss(outputs, frames, batch)
        assert losses.shape == (len(batch),) and (losses > 0).any()
        losses.sum().backward()
        assert waveforms.grad is not None and waveforms.grad.abs().sum() > 0
    errors, units = (
        sum(part) for part in zip(*(each.errors[recogniser.metrics[0]] for each in found), strict=True)
    )
    assert 100 * errors / units == pytest.approx(score(result))


@pytest.fixture(scope="module")
def trained(task_data, quick, student, tmp_path_factory):
    """A keyword head, and test speech."""
    out = tmp_path_factory.mktemp("evaluations")
    config = quick("ks", conditions=["clean"])
    evaluate(student, config, out)
    return out / "heads" / "ks-last-seed0", TaskSpeech(config).test("clean", None)


def test_what_is_injected_reaches_the_outputs(trained, student):
    (recogniser,) = open_recognisers([f"{student}@{trained[0]}"])
    waveforms, lengths = torch.randn(2, 4000), torch.tensor([4000, 3000])
    clean, frames = recogniser.outputs(waveforms, lengths)
    alone, _ = recogniser.outputs(waveforms[1:, :3000], lengths[1:])
    assert frames.tolist() == [12, 9] and torch.allclose(clean[1:], alone, atol=1e-5)
    with recogniser.model.injected("1", lambda states: 2 * states):
        assert not torch.allclose(recogniser.outputs(waveforms, lengths)[0], clean)


def test_names_and_identities(trained, student, tmp_path):
    folder = trained[0]
    copy = tmp_path / "ks-last-seed1"
    shutil.copytree(folder, copy)
    one, other = open_recognisers([f"{student}@{folder}", f"{student}@{copy}"])
    assert (one.name, other.name) == ("tiny@ks-last-seed0", "tiny@ks-last-seed1")
    assert one.identity == other.identity != one.model.identity
    with pytest.raises(UsageError, match="the same recogniser is given twice"):
        open_recognisers([f"{student}@{folder}"] * 2)


def test_wrong_heads_are_refused(trained, student, tmp_path):
    folder = trained[0]
    with pytest.raises(UserError, match="is a head of another model than random:mini"):
        open_recognisers([f"random:mini@{folder}"])
    with pytest.raises(UserError, match="is not a head of `distill evaluate`: give a folder such as"):
        open_recognisers([f"{student}@{tmp_path}"])
    with pytest.raises(UserError, match="tiny has no head that recognises speech: train one with"):
        open_recognisers([str(student)])
    shutil.copytree(folder, tmp_path / "best")
    with pytest.raises(UserError, match="the folder of a head keeps its name"):
        open_recognisers([f"{student}@{tmp_path}/best"])
    (tmp_path / "best" / "finished.json").unlink()
    with pytest.raises(UserError, match="this head's training is not finished"):
        open_recognisers([f"{student}@{tmp_path}/best"])


def test_speech_without_the_truth_is_refused(trained, student, task_data, quick, tmp_path):
    (recogniser,) = open_recognisers([f"{student}@{trained[0]}"])
    (cut, *_) = TaskSpeech(quick("asr")).test("clean", None)
    with pytest.raises(DataError, match=f"{cut.id} has no 'label'"):
        recogniser.check([cut])
