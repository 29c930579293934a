"""Embeddings of utterances."""

import pytest
import torch

from distill.checkpoints import native
from distill.downstream.embeddings import embed, load_encoders
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student


@pytest.mark.parametrize("pre_norm", [False, True])
def test_embeddings_are_those_of_each_utterance_alone(pre_norm):
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", pre_norm=pre_norm).eval()
    waves, lengths = torch.randn(3, 6000), torch.tensor([6000, 2000, 4321])
    batch = embed(encoder, waves, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(waves[row : row + 1, :length]).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(batch[row], alone, atol=1e-5, rtol=1e-4)
    assert not batch.requires_grad


def test_encoders_of_a_spiral_teacher_and_student(tmp_path):
    teacher = SpiralEncoder.from_preset("mini")
    native.write(teacher, tmp_path / "t")
    native.write(Student.from_teacher(teacher, layers=1, targets=(4,)), tmp_path / "s")
    found = load_encoders([str(tmp_path / "t"), str(tmp_path / "s")])
    assert [encoder.config.layers for encoder in found.values()] == [4, 1]
    assert embed(found["s"].eval(), torch.randn(2, 4000), torch.tensor([4000, 2000])).shape == (2, 128)
