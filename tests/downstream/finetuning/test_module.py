"""The training step: masks, frozen encoders, gradients."""

import pytest
import torch

from distill.downstream.finetuning.data import TranscribedSpeech
from distill.downstream.finetuning.module import FineTuning
from distill.downstream.finetuning.run import make_module, make_units, open_encoder
from tests.downstream.finetuning.conftest import SENTENCES, TEACHERS, small


def made(spoken, *words: str) -> FineTuning:
    torch.manual_seed(0)
    recipe = small(spoken, *words)
    data = TranscribedSpeech(recipe)
    module = make_module(recipe, data, open_encoder(recipe), make_units(recipe, data, None))
    module.batch = data._dataset("dev")[0, 0, list(range(len(SENTENCES)))]
    return module.train()


NO_NOISE = (
    *("encoder.dropout=0", "encoder.attention_dropout=0", "classifier.dropout=0"),
    *("masking.time_probability=0", "masking.channel_probability=0"),
)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_masks_are_the_utterances_own(spoken, teacher):
    """Whatever batch they are in, and drawn afresh in each epoch; within the valid frames."""
    module = made(spoken, f"teacher={teacher}")
    batch = module.batch
    masks = module.masks(batch.waveforms.shape[1], batch, epoch=0)
    width, channels = module.model.encoder.config.mask_shape(batch.waveforms.shape[1])
    assert masks["mask"].shape == (len(batch), width)
    assert masks["mask_channels"].shape == (len(batch), channels)
    assert ("mask_embedding" in masks) == (teacher == "random:mini")
    part = batch[3:5]
    alone = module.masks(part.waveforms.shape[1], part, epoch=0)
    n_frames = alone["mask"].shape[1]
    assert torch.equal(alone["mask"], masks["mask"][3:5, :n_frames])
    assert torch.equal(alone["mask_channels"], masks["mask_channels"][3:5])
    assert not torch.equal(module.masks(batch.waveforms.shape[1], batch, epoch=1)["mask"], masks["mask"])
    assert masks["mask"].any(1).all() and masks["mask_channels"].any()
    module.log_probs(batch.waveforms, batch, 0, learns=True)[0].sum().backward()  # they fit


def test_without_masks(spoken):
    module = made(spoken, *NO_NOISE)
    assert module.masks(16_000, module.batch, 0) == {}
    assert module.mask_embedding is None


def test_the_encoder_waits_in_training_mode(spoken):
    """No gradient, but its dropout and masks are on."""
    module = made(spoken, "freeze_updates=2")
    batch = module.batch
    assert not module.encoder_learns and module.model.encoder.training
    first, frames = module.log_probs(batch.waveforms, batch, 0, learns=False)
    again, _ = module.log_probs(batch.waveforms, batch, 0, learns=False)
    assert not torch.equal(first, again)
    module.losses(first, frames, batch.ids, "train").sum().backward()
    assert all(p.grad is None for p in module.model.encoder.parameters())
    assert all(p.grad is not None for p in module.model.classifier.parameters())


def test_a_frozen_encoder_is_in_eval_mode_and_hears_everything(spoken):
    module = made(spoken, "frozen=true", "classifier.dropout=0")
    assert not module.model.encoder.training and module.model.classifier.training
    assert module.masks(16_000, module.batch, 0) == {} and not module.encoder_learns
    assert not any(p.requires_grad for p in module.model.encoder.parameters())
    batch = module.batch
    first, _ = module.log_probs(batch.waveforms, batch, 0, learns=False)
    again, _ = module.log_probs(batch.waveforms, batch, 0, learns=False)
    assert torch.equal(first, again)
    (groups,), _ = module.configure_optimizers()
    assert len(groups.param_groups) == 1


def test_weight_decay_of_encoder_and_classifier(spoken):
    module = made(spoken, "optim.weight_decay=0.01", "encoder_weight_decay=0.003", "teacher=random:mini")
    (optimizer,), _ = module.configure_optimizers()
    classifier, encoder = optimizer.param_groups
    assert (classifier["weight_decay"], encoder["weight_decay"]) == (0.01, 0.003)
    assert len(classifier["params"]) == len([*module.model.classifier.parameters()])
    assert len(encoder["params"]) == len([*module.model.encoder.parameters()]) + 1  # the mask embedding


def test_utterances_without_a_target_have_no_loss(spoken):
    module = made(spoken, *NO_NOISE)
    batch = module.batch
    log_probs, frames = module.model(batch.waveforms, batch.lengths)
    losses = module.losses(log_probs, frames, ["u00", "stranger", *batch.ids[2:]], "train")
    whole = module.losses(log_probs, frames, batch.ids, "train")
    assert losses[1] == 0.0 and whole[1] > 0.0
    assert torch.equal(losses[2:], whole[2:])


def test_an_utterance_has_its_loss_alone_as_in_a_batch(spoken):
    module = made(spoken, *NO_NOISE).eval()
    batch = module.batch
    together = module.losses(*module.model(batch.waveforms, batch.lengths), batch.ids, "train")
    for row in range(len(batch)):
        part = batch[row : row + 1]
        alone = module.losses(*module.model(part.waveforms, part.lengths), part.ids, "train")
        assert float(alone) == pytest.approx(float(together[row]), rel=1e-4)
