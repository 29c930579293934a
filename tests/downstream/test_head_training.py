"""What a head's training logs, in one process and in several."""

import multiprocessing
import re
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from distill.downstream.batches import HeadBatch
from distill.downstream.features import Selection
from distill.downstream.head_training import HeadTraining
from distill.downstream.labels import ClassLabels
from distill.downstream.options import EvaluationConfig
from distill.errors import UsageError
from distill.hubert import HubertEncoder
from distill.optim import OptimConfig
from distill.options.shared import INSTEAD_OF

pytestmark = pytest.mark.slow

LABELS = ClassLabels((("a", "b", "c"),), "label")
SIZES = (4, 2, 1)  # uneven, and an odd sum


def batches() -> list[HeadBatch]:
    """Features of ten frames in batches of `SIZES`."""
    rng = torch.Generator().manual_seed(0)
    return [
        HeadBatch(
            ids=[f"{size}-{row}" for row in range(size)],
            lengths=torch.full((size,), 3600),
            targets=torch.randint(3, (size, 1), generator=rng),
            target_lengths=torch.ones(size, dtype=torch.int64),
            waveforms=torch.empty(0, 0),
            online=[],
            features=3 * torch.randn(size, 10, 24, generator=rng),
            frames=torch.full((size,), 10),
        )
        for size in SIZES
    ]


def validate(heard: list[HeadBatch], world_size: int = 1) -> dict[str, float]:
    """What one of the processes logs after its batches."""
    torch.manual_seed(1)
    encoder = HubertEncoder.from_preset("mini", layers=1)
    module = HeadTraining(encoder, Selection("last", 1), LABELS.head(24, 8), LABELS, OptimConfig())
    module.trainer = SimpleNamespace(world_size=world_size)  # pyright: ignore[reportAttributeAccessIssue]
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # pyright: ignore
    with torch.no_grad():
        module.eval().on_validation_epoch_start()
        for index, batch in enumerate(heard):
            module.validation_step(batch, index)
        module.on_validation_epoch_end()
    return logged


def _process(rank, store, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    queue.put(validate(batches()[:2] if rank == 0 else batches()[2:], world_size=2))
    dist.destroy_process_group()


def test_dev_loss_and_errors_of_two_processes_are_those_of_one(tmp_path):
    """With 7 utterances: 4 and 2 in one process, 1 in the other."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_process, args=(rank, tmp_path / "store", queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert found[0] == found[1] == pytest.approx(validate(batches()))


def test_dev_loss_is_the_mean_over_utterances():
    whole = batches()
    features = torch.cat([batch.features for batch in whole if batch.features is not None])
    targets = torch.cat([batch.targets for batch in whole])
    torch.manual_seed(1)
    HubertEncoder.from_preset("mini", layers=1)
    head = LABELS.head(24, 8)  # the same random weights
    outputs = head(features, torch.full((7,), 10)).detach()
    found = validate(whole)
    assert found["val/loss"] == pytest.approx(float(head.loss(outputs, targets)), rel=1e-5)
    wrong = float((head.predict(outputs) != targets).float().mean())
    assert found["val/error"] == pytest.approx(100 * wrong, rel=1e-5)


@pytest.mark.parametrize("key", INSTEAD_OF)
def test_what_to_use_instead_of_a_trainer_key_is_an_option_of_evaluations(key):
    with pytest.raises(UsageError, match=f"trainer.{key} is not passed on: use ") as refused:
        EvaluationConfig(task="er", trainer={key: 8})
    instead = str(refused.value).partition(": use ")[2]
    word = re.split(r"[,.:]", instead)[0]
    assert word in {"nothing", "--out", *(field.name for field in fields(EvaluationConfig))}, instead


def test_accumulating_is_a_larger_batch():
    with pytest.raises(UsageError, match="use batch_size, which is of a whole update"):
        EvaluationConfig(task="er", trainer={"accumulate_grad_batches": 8})


def test_keywords_are_heard_3_db_lower(monkeypatch):
    """As sox `gain -3`: 10 ** (-3 / 20)."""
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", layers=1)
    labels = ClassLabels((("a", "b"),), "label")
    heard = []
    monkeypatch.setattr(
        encoder,
        "forward",
        lambda waves, lengths: heard.append(waves) or HubertEncoder.forward(encoder, waves, lengths),
    )
    waves = torch.randn(2, 1600)
    for gain_db in (0.0, -3.0):
        module = HeadTraining(
            encoder, Selection("last", 1), labels.head(24, 8), labels, OptimConfig(), gain_db=gain_db
        )
        module.encode(waves, torch.tensor([1600, 1600]))
    assert torch.equal(heard[0], waves)
    torch.testing.assert_close(heard[1], waves * 0.70794578)
