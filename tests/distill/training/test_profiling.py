"""Where a step's time goes: what is measured, and what is said about it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from distill.batch import Batch
from distill.config import load
from distill.data.datamodule import SpeechData
from distill.distillation import Distillation
from distill.errors import DataError, UsageError
from distill.options import Recipe
from distill.training.profiling import OTHER, PARTS, WARM_UP, ProfileReport, StepClock, profile
from distill.training.train import make_module


def tiny(data, *overrides: str, name: str = "mini") -> Recipe:
    quick = ["data.workers=0", "data.batch_size=4", "data.max_samples=8000", "trainer.accelerator=cpu"]
    return load(name, [f"data.root={data}", "teacher=random:mini", *quick, *overrides])


def report(**parts_ms: float) -> ProfileReport:
    parts = {name: 1.0 for name in (*PARTS, OTHER)} | {k.replace("_", " "): v for k, v in parts_ms.items()}
    return ProfileReport(
        recipe="r",
        device="1 x CPU",
        utterances=4,
        workers=3,
        parts_ms=parts,
        step_ms=sum(parts.values()),
        steps=5,
        audio_s_per_s=10.0,
    )


@pytest.mark.parametrize("dat", [False, True])
def test_a_profile_runs_the_training_step(mini_data, monkeypatch, tmp_path, dat):
    monkeypatch.chdir(tmp_path)
    steps: list[Distillation] = []
    original = Distillation.training_step

    def counted(self, batch, batch_idx):
        steps.append(self)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", counted)
    found = profile(tiny(mini_data, f"dat.enabled={str(dat).lower()}"), steps=3)
    assert len(steps) == WARM_UP + 3 == steps[0].global_step
    assert found.steps == 3 and found.utterances == 4
    expected = [name for name in (*PARTS, OTHER) if dat or name != "classifier"]
    assert list(found.parts_ms) == expected
    # Each part takes some time, and no part is counted twice: the rest would be negative.
    assert all(ms > 0 for ms in found.parts_ms.values())
    assert found.audio_s_per_s > 0 and found.mfu > 0
    table = str(found).splitlines()
    assert [line.split("  ")[0] for line in table[2 : 2 + len(expected)]] == expected
    assert table[0].startswith("mini: 1 x CPU (1 thread), 32-true; 4 utterances a step, 0 data workers")
    assert not list(tmp_path.iterdir())  # nothing is kept


def test_what_is_measured_is_the_student_that_trains(mini_data):
    """The clock changes no weight: a step with it is a step without it."""
    trained: list[Any] = []

    class Keep(StepClock):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trained.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    recipe: Any = tiny(mini_data, "optim.max_steps=2", "student.dropout=0")
    for clock in (Keep(), None):
        torch.manual_seed(0)
        module = make_module(recipe)
        trainer = pl.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[clock] if clock else [],
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=SpeechData(recipe, streams=["student", "teacher"]))
        trained.append(module.state_dict())
    timed, _, plain = trained
    assert all(torch.equal(timed[name], plain[name]) for name in plain)


def test_medians_and_shares_of_known_marks():
    """Marks in seconds, put in by hand: two parts, one of them twice a step, after the warm-up."""
    clock = StepClock()
    now = iter(range(10_000))
    clock.mark = lambda: float(next(now))
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=2, precision="32-true"
    )
    lengths = torch.tensor([16_000, 32_000])
    batch = Batch(["a", "b"], torch.zeros(2, 32_000), lengths)
    module: Any = None
    for _ in range(WARM_UP + 3):
        clock.begin("teacher")
        clock.end("teacher")
        for _ in range(2):
            clock.begin("backward")
            clock.end("backward")
        clock.on_train_batch_end(trainer, module, None, batch, 0)
    found = clock.report(load("mini"), trainer)
    # Seven marks a step, one second apart: the teacher takes one of them, backward two, four are between.
    assert found.parts_ms == {"teacher": 1000.0, "backward": 2000.0, OTHER: 4000.0}
    assert found.step_ms == 7000.0 and found.steps == 3
    assert found.shares == {"teacher": 1 / 7, "backward": 2 / 7, OTHER: 4 / 7}
    assert found.utterances == 4.0  # of two processes
    assert found.audio_s_per_s == pytest.approx(2 * 3.0 / 7.0)
    assert found.mfu == 0.0  # of no module that is known


def test_the_share_of_what_is_possible_is_said_if_it_is_known():
    assert "steps\n" in str(report())
    known = replace(report(), mfu=0.314)
    assert "over 5 steps, 31% of what a matrix product reaches\n" in str(known)


def test_waiting_for_data_is_what_is_said_first():
    waiting = report(data_wait=3.0, teacher=4.0)
    assert waiting.shares["data wait"] > 0.2
    assert "raise data.workers (now 3)" in waiting.advice
    assert "data.workers" not in report(data_wait=2.0, teacher=8.0).advice


@pytest.mark.parametrize("part", [name for name in (*PARTS, OTHER) if name != "data wait"])
def test_advice_names_the_part_that_dominates(part):
    advice = report(**{part: 20.0}).advice
    assert advice.endswith(f"({part} is {20 / 27:.0%} of a step).") and "\n" not in advice


def test_mistakes(mini_data):
    with pytest.raises(UsageError, match="mini_teacher is of kind adapt: only distillation can be profiled"):
        profile(load("mini_teacher"))
    with pytest.raises(UsageError, match="steps must be at least 1, not 0"):
        profile(tiny(mini_data), steps=0)
    with pytest.raises(DataError, match="does not exist"):
        profile(tiny("/nowhere"))
    with pytest.raises(UsageError, match="student|targets"):
        profile(tiny(mini_data, "student.targets=[99]"))
    with pytest.raises(UsageError, match="^trainer: "):
        profile(tiny(mini_data, "trainer.precision=17"))


def test_the_table_is_printed_by_the_first_process_only(monkeypatch, capsys):
    from distill.cli import main

    monkeypatch.setattr("distill.training.profiling.profile", lambda *_, **__: "the table")
    assert main(["profile", "mini"]) == 0 and capsys.readouterr().out == "the table\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["profile", "mini"]) == 0 and not capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_parts_are_times_of_its_stream(mini_data):
    found = profile(tiny(mini_data, "trainer.accelerator=gpu", "trainer.devices=1"), steps=3)
    assert torch.cuda.get_device_name() in found.device
    assert sum(found.parts_ms.values()) == pytest.approx(found.step_ms, rel=0.5)
