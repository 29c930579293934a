"""Operations by formula are those that torch counts in torchaudio's models, which compute all directly."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.step_peers import torchaudio_peer
from bench.work import encoder_macs, gemm, step_flops
from distill.hubert import PRESETS, HubertEncoder
from distill.student import Student


@pytest.mark.parametrize("preset", ["base", "mini"])
def test_a_forward_pass(preset):
    config = PRESETS[preset]
    teacher = torchaudio_peer(config, (2, 6), True).teacher
    # Torch does not count the fused attention of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        teacher(torch.zeros(1, 8_000))
    counted = counter.get_total_flops()
    # An even kernel gives torch's positional convolution a frame more than is used.
    assert 2 * sum(encoder_macs(config, 8_000)) == pytest.approx(counted, rel=0.02)


def test_a_step_of_the_papers_size():
    """About 36 GFLOP per audio-second: 14 for the teacher, 20.6 for the student and 1.1 for its heads."""
    with torch.device("meta"):
        teacher = HubertEncoder.from_preset("base")
        student = Student.from_teacher(teacher)
    n_samples = 5 * 16_000
    of_teacher = 2 * sum(encoder_macs(teacher.config, n_samples))
    total = step_flops(teacher.config, student.encoder.config, 3, [n_samples] * 4)
    assert of_teacher / 5 / 1e9 == pytest.approx(14.2, abs=0.2)
    assert (total / 4 - of_teacher) / 5 / 1e9 == pytest.approx(21.7, abs=0.2)


def test_a_backward_pass_counts_twice():
    """But for the first convolution, whose input needs no gradient."""
    config = replace(PRESETS["mini"], position_groups=1)  # torch counts groups' gradients wrong
    peer = torchaudio_peer(config, (6,), True)
    waveform, lengths = torch.randn(1, 16_000), torch.tensor([16_000])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            targets = peer.targets(waveform, lengths)
        peer.loss(waveform, lengths, targets).backward()
    flops = step_flops(config, replace(config, layers=2), 1, [16_000])
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_product_that_limits():
    product, operations = gemm("cpu", torch.float32)
    assert operations == 2 * 4 * 1536**3
    assert product.device == "cpu"
