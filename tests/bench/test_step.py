"""The whole benchmark on tiny models: who cannot run is skipped with the reason.

Operations by formula are those that torch counts in torchaudio's models, which compute all directly.
"""

import json
import threading
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import step
from bench.batches import batch_of
from bench.ours import make_loop
from bench.step_peers import PEERS, make_step, torchaudio_peer
from distill.distillation import Distillation
from distill.hubert import PRESETS, HubertEncoder
from distill.student import Student
from distill.training.flops import forward, step_flops


def test_a_table_with_ours_first(tmp_path, capsys):
    paths = tmp_path / "a" / "step.json", tmp_path / "step.md"
    words = ["--preset", "mini", "--batch", "2x0.2", "--rounds", "2", "--no-memory", "--precision", "fp32"]
    step.main([*words, "--only", "ours,minimal", "--json", str(paths[0]), "--markdown", str(paths[1])])
    found = json.loads(paths[0].read_text())
    [table] = found["tables"]
    ours, other, skipped = table["rows"]
    assert [len(row["wall_s"]) for row in (ours, other)] == [2, 2]
    assert ours["of_limit"] == pytest.approx(table["limit_s"] / ours["compared_s"])
    assert "minimal-hubert" in skipped["failure"]
    out = capsys.readouterr().out
    assert paths[1].read_text().strip() in out
    assert "| ours |" in out and "skipped: minimal-hubert" in out


@pytest.mark.parametrize("name", [name for name in PEERS if name != "minimal-hubert"])
@pytest.mark.parametrize("batch", ["2x0.3", "2x0.3padded"])
def test_every_peer_learns(name, batch):
    pytest.importorskip(name.split(",")[0])
    run = make_step(PEERS[name], batch_of(batch), device="cpu", precision="fp32", preset="mini")
    run(0)
    run(1)


def test_the_search_doubles_batches(monkeypatch):
    speeds = iter([10.0, 15.0, 15.1])
    monkeypatch.setattr(step, "_speed", lambda setup: next(speeds))
    found = step.search("cpu", "fp32", "mini", "2x0.2")
    assert [one["batch"] for one in found["tried"]] == ["2x0.2", "4x0.2", "8x0.2"]


def test_the_search_ends_where_memory_does(monkeypatch):
    import torch

    def full(setup):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(step, "_speed", full)
    found = step.search("cpu", "fp32", "mini", "2x0.2")
    assert "out of memory" in step.search_text(found)


def test_the_loop_takes_one_step_at_a_time_and_says_what_failed():
    loop, run = make_loop(batch_of("2x0.2"), device="cpu", precision="fp32", preset="mini")
    before = loop.trainer.global_step
    run(0)
    run(1)
    assert loop.trainer.global_step == before + 2
    threads = []
    loop.call(lambda: threads.append(threading.current_thread()))
    assert threads != [threading.current_thread()]
    with pytest.raises(ZeroDivisionError):
        loop.call(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch", "4y5"], "batch '4y5': name it like 4x5"),
        (["--only", "ours,foo"], "unknown contender 'foo'; there are ours, "),
        (["--precision", "fp17"], "unknown precision 'fp17'; there are fp32, bf16"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        step.main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["base", "mini"])
def test_work_of_a_forward_pass(preset):
    config = PRESETS[preset]
    teacher = torchaudio_peer(config, (2, 6), True).teacher
    # Torch does not count the fused attention of CPUs.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        teacher(torch.zeros(1, 8_000))
    work = forward(config, torch.tensor([8_000]))
    assert 2 * (work.first + work.rest) == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_work_of_a_step_of_the_papers_size():
    """About 36 GFLOP per audio-second: 14 for the teacher, 20.6 for the student and 1.1 for its heads."""
    speech = batch_of("4x5")
    of_teacher = forward(PRESETS["base"], speech.lengths)
    teacher = 2 * (of_teacher.first + of_teacher.rest) / speech.audio_s / 1e9
    total = step.flops_of(step.Setup(speech, "cpu", "fp32", "base")) / speech.audio_s / 1e9
    assert teacher == pytest.approx(14.2, abs=0.2)
    assert total - teacher == pytest.approx(21.7, abs=0.2)


def test_a_backward_pass_counts_twice():
    """But for the first convolution, whose input needs no gradient."""
    config = replace(PRESETS["mini"], position_groups=1)  # torch counts groups' gradients wrong
    peer = torchaudio_peer(config, (6,), True)
    waveform, lengths = torch.randn(1, 16_000), torch.tensor([16_000])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            targets = peer.targets(waveform, lengths)
        peer.loss(waveform, lengths, targets).backward()
    teacher = HubertEncoder(config)
    module = Distillation(teacher, Student.from_teacher(teacher, targets=(6,)))
    assert step_flops(module, lengths) == pytest.approx(counter.get_total_flops(), rel=0.02)
