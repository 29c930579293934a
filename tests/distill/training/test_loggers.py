"""What is logged, where it can be read back, and that trouble with it stops nothing."""

import csv
import json
import logging
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from pytorch_lightning.loggers import CSVLogger, Logger
from torch.utils.data import DataLoader

from distill.config import load
from distill.distortions import LABELS
from distill.objective import distillation_loss
from distill.options import LoggingConfig, OptimConfig, Recipe
from distill.training import progress
from distill.training import trainer as training
from distill.training.listening import describe
from distill.training.loggers import SafeLogger, make_loggers, wandb_mode
from distill.training.run_folder import RunFolder
from tests.distill.ddp_worker import make_batches, make_module

STEPS = 6
FROZEN = OptimConfig(max_steps=STEPS, lr=1e-30, warmup=0.0)  # the model of the last step is that of the first
KEYS = {
    *("train/loss", "train/l1", "train/cosine"),
    *(f"train/{term}_layer{layer}" for term in ("l1", "cosine") for layer in (1, 2, 3)),
    *("gradient_norm", "gradient_norm_cnn", "gradient_norm_transformer", "gradient_norm_heads"),
    *("lr", "audio_s_per_s", "data_wait_share", "memory_gib", "dat/loss", "dat/accuracy"),
    *(f"dat_accuracy_by_type/{label}" for label in LABELS),
    *(f"loss_by_type/{label}" for label in ("gaussian", "reverb", "pitch", "band_reject", "clean")),
}
SOUNDS = {"heard/teacher", "heard/student"}


def recipe(*changes: str, steps: int = STEPS) -> Recipe:
    made = [f"optim.max_steps={steps}", f"validation.every_n_steps={steps}", "logging.wandb=off"]
    return load("mini", [*made, "logging.every_n_steps=2", "trainer.accelerator=cpu", *changes])


def train(out: Path, *changes: str, steps: int = STEPS, batches: Any = None, module: Any = None, **more: Any):
    """A run of the tiny model with the loggers and callbacks of real runs."""
    out.mkdir(exist_ok=True)
    trainer: Any = training.make_trainer(recipe(*changes, steps=steps), RunFolder(out))
    trainer.callbacks[:0] = more.get("extra", [])
    speech, dev = cast(Any, (batches or make_batches(steps), make_batches(1)))
    loaders = [DataLoader(part, batch_size=None) for part in (speech, dev)]
    trainer.fit(module or make_module(dat=True), *loaders)
    return trainer


def columns(out: Path) -> dict[str, dict[int, float]]:
    """The CSV log: values by metric and step."""
    found: dict[str, dict[int, float]] = {}
    with (out / "csv" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key in row.keys() - {"step", "epoch"}:
                if row[key]:
                    found.setdefault(key, {})[int(row["step"])] = float(row[key])
    return found


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> Path:
    """A run with all loggers on, sounds at the third and sixth step."""
    out = tmp_path_factory.mktemp("logged")
    train(out, "logging.wandb=offline", "logging.audio_every_n_steps=3")
    return out


# -------------------------------------------------------------------------------------------- reading back


def wandb_records(data: bytes) -> Iterator[Any]:
    """Records of a .wandb file: a 7-byte header, then LevelDB's log format around wandb's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    at, message = 7, b""
    assert data[:4] in (b"", b":W&B")
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:  # no header fits into the rest of this block
            at += 32_768 - at % 32_768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        message += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4) and at <= len(data):  # whole, or the last part
            record = Record()
            record.ParseFromString(message)
            yield record
            message = b""


def wandb_run(out: Path) -> list[Any]:
    """The records of the only offline run in a folder; wandb's own process may still be writing them."""
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):
        records = list(wandb_records(file.read_bytes()))
        if records and records[-1].HasField("exit"):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file} was not finished")


def wandb_history(out: Path) -> list[dict[str, Any]]:
    rows = [record.history.item for record in wandb_run(out) if record.HasField("history")]
    return [{i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows]


def test_csv_holds_every_number_and_nothing_else(logged):
    found = columns(logged)
    assert found.keys() >= KEYS | {"val/loss", "val/loss_clean"}
    assert all(found[key].keys() == {1, 3, 5} for key in KEYS if not key.startswith("loss_by_type/"))
    assert not any(key.startswith("heard") for key in found)
    assert np.isfinite([value for column in found.values() for value in column.values()]).all()


def test_an_offline_wandb_run_holds_the_same_numbers(logged):
    history = wandb_history(logged)
    expected = columns(logged)
    for key in KEYS | {"val/loss"}:
        found = {row["trainer/global_step"]: row[key] for row in history if key in row}
        assert found == pytest.approx(expected[key])


def test_a_wandb_run_knows_its_recipe(logged):
    run = next(record.run for record in wandb_run(logged) if record.HasField("run"))
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert run.display_name == "mini" and run.project == "robust-distilhubert"
    assert config["cdm"] == "setup2" and config["optim"]["max_steps"] == STEPS


def test_wandb_plays_what_the_networks_heard(logged):
    rows = [row for row in wandb_history(logged) if "heard/student.path" in row]
    assert [row["trainer/global_step"] for row in rows] == [2, 5]
    module, batch = make_module(dat=True), make_batches(STEPS)[5]
    (folder,) = logged.glob("wandb/offline-run-*/files")
    for name in ("teacher", "student"):
        samples, rate = soundfile.read(folder / rows[1][f"heard/{name}.path"])
        waves, _ = module.hear(batch, name)
        assert rate == 16_000 and len(samples) == batch.lengths[0]
        assert np.abs(samples - waves[0, : len(samples)].clamp(-1, 1).numpy()).max() < 1e-4  # 16 bit
        caption = f"{name}, batch5-0: {describe(batch.views[name].plan[0])}"
        assert rows[1][f"heard/{name}.caption"] == caption
        assert caption in rows[1]["heard/spectrograms.caption"]
    assert (folder / rows[1]["heard/spectrograms.path"]).stat().st_size > 10_000


def test_tensorboard_holds_the_same_numbers_sounds_and_pictures(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged / "tensorboard")).Reload()
    expected = columns(logged)
    for key in KEYS | {"val/loss"}:
        found = {event.step: event.value for event in events.Scalars(key)}
        assert found == pytest.approx(expected[key])
    assert set(events.Tags()["audio"]) == SOUNDS
    for tag in SOUNDS:
        sounds = events.Audio(tag)
        assert [sound.step for sound in sounds] == [2, 5]
        assert [sound.length_frames for sound in sounds] == [
            int(make_batches(STEPS)[i].lengths[0]) for i in (2, 5)
        ]
    assert [image.step for image in events.Images("heard/spectrograms")] == [2, 5]


# ------------------------------------------------------------------------------------ the numbers themselves


@pytest.mark.parametrize("accumulate", [1, 2])
def test_numbers_by_type_are_those_of_the_utterances_that_carry_it(tmp_path, accumulate):
    """Over the three steps since the last line, against every utterance on its own."""
    module = make_module(dat=True, accumulate=accumulate, optim=FROZEN)
    module.optim.accumulate = accumulate
    batches = make_batches(3)
    train(tmp_path, "logging.every_n_steps=3", batches=batches, module=module, steps=3)
    losses, right = {label: [] for label in LABELS}, []  # (sum, frames) by label; correct answers
    with torch.no_grad():
        for batch in batches:
            for row in range(len(batch)):
                one = batch[row : row + 1]
                waves, labels = module.hear(one, "student")
                student = module.student(waves, one.lengths)
                targets = module.teacher_targets(module.hear(one, "teacher")[0], one.lengths)
                loss = distillation_loss(student.predictions, targets, student.lengths).total
                frames = int(student.lengths)
                for label in (name for name, set_ in zip(LABELS, labels[0], strict=True) if set_):
                    losses[label].append((float(loss) * frames, frames))
                logits = module.classifier(student.z, student.lengths)
                right.append(((logits[0] > 0) == labels[0].bool()).float())
    found = {key: column[2] for key, column in columns(tmp_path).items() if 2 in column}
    expected = {
        f"loss_by_type/{label}": sum(total for total, _ in pairs) / sum(frames for _, frames in pairs)
        for label, pairs in losses.items()
        if pairs
    }
    assert {"loss_by_type/gaussian", "loss_by_type/reverb"} < expected.keys()
    assert {key: found[key] for key in found if key.startswith("loss_by_type/")} == pytest.approx(
        expected, rel=1e-4
    )
    accuracy = dict(zip(LABELS, torch.stack(right).mean(0).tolist(), strict=True))
    assert {label: found[f"dat_accuracy_by_type/{label}"] for label in LABELS} == pytest.approx(accuracy)


def test_types_without_an_utterance_have_no_loss(tmp_path):
    train(tmp_path, steps=2)
    assert not {"loss_by_type/musan", "loss_by_type/wham"} & columns(tmp_path).keys()  # NO_NOISE_FILES


def test_a_broken_utterance_does_not_spoil_the_losses_by_type():
    module = make_module(dat=False)
    labels = torch.zeros(3, len(LABELS))
    labels[[0, 1], LABELS.index("pitch")] = labels[2, LABELS.index("clean")] = 1.0
    module._note_by_type(labels, torch.tensor([6.0, float("nan"), float("inf")]), torch.tensor([3, 4, 5]))
    assert module._means_by_type() == {"loss_by_type/pitch": torch.tensor(2.0)}


def test_each_line_starts_its_own_sums(tmp_path):
    """The second line is the same whatever came before the first one."""
    found = []
    last = torch.cat([batch.views["student"].plan.labels() for batch in make_batches(6)[4:]]).any(0)
    keys = [f"loss_by_type/{label}" for label, occurs in zip(LABELS, last, strict=True) if occurs]
    keys += [f"dat_accuracy_by_type/{label}" for label in LABELS]
    for first in (0, 2):
        every = make_batches(6)
        batches = [*every[first : first + 2], *every[4:6]]
        out = tmp_path / str(first)
        train(out, steps=4, batches=batches, module=make_module(dat=True, optim=FROZEN))
        found.append({key: columns(out)[key] for key in keys})
    assert {key: values[3] for key, values in found[0].items()} == pytest.approx(
        {key: values[3] for key, values in found[1].items()}, rel=1e-5
    )
    assert found[0][keys[0]][1] != pytest.approx(found[1][keys[0]][1], rel=1e-3)


def test_gradient_norms_of_the_parts(tmp_path):
    module, seen = make_module(dat=True), []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            student: Any = pl_module.student
            encoder = student.encoder
            others = [encoder.projection, encoder.position, encoder.norm, encoder.layers]
            parts = {"cnn": [encoder.cnn], "transformer": others, "heads": [student.heads]}
            seen.append(
                {
                    part: sum(float(p.grad.double().square().sum()) for m in models for p in m.parameters())
                    ** 0.5
                    for part, models in parts.items()
                }
            )

    train(tmp_path, module=module, extra=[Watch()], steps=2)
    found = columns(tmp_path)
    assert {part: found[f"gradient_norm_{part}"][1] for part in seen[1]} == pytest.approx(seen[1], rel=1e-5)
    total = sum(norm**2 for norm in seen[1].values()) ** 0.5
    assert found["gradient_norm"][1] == pytest.approx(total, rel=1e-5)


class Clock(pl.Callback):
    """Time that only passes where it is told to: 0.3 s a batch in the loader, then in the step."""

    def __init__(self, monkeypatch, step_s: list[float]):
        self.now, self.step_s = 0.0, step_s
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def load(self, batches) -> Iterator[Any]:
        for batch in batches:
            self.now += 0.3
            yield batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += self.step_s[trainer.global_step]


class Loaded(torch.utils.data.IterableDataset):
    """Batches that take time to load."""

    def __init__(self, clock: Clock, batches):
        self.clock, self.batches = clock, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return self.clock.load(self.batches)


def test_share_of_the_time_that_training_waits_for_data(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, [0.1, 0.1, 0.9, 0.9])
    train(tmp_path, steps=4, batches=Loaded(clock, make_batches(4)), extra=[clock])
    shares = columns(tmp_path)["data_wait_share"]
    assert shares == pytest.approx({1: 0.75, 3: 0.25})


def test_a_long_run_says_how_long_it_will_take(tmp_path, monkeypatch, capsys):
    """From the third step on: the first two are slow."""
    clock = Clock(monkeypatch, [50.0, 50.0] + [0.2] * 58)
    batches = make_batches(1, size=1) * 60
    train(tmp_path, steps=60, batches=Loaded(clock, batches), extra=[clock], module=make_module(dat=False))
    said = re.findall(r"^mini: about .*$", capsys.readouterr().err, re.MULTILINE)
    assert said == ["mini: about 30 s for 60 steps (0.50 s each)"]


def test_a_short_run_says_nothing_about_time(tmp_path, capsys):
    batches = make_batches(1, size=1) * 20
    train(tmp_path, steps=20, batches=batches, module=make_module(dat=False))
    assert "about" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(44.6, "45 s"), (60, "1 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (90_000, "25 h 0 min")],
)
def test_durations_in_words(seconds, words):
    assert progress.in_words(seconds) == words


def test_the_start_line_names_device_and_precision(tmp_path):
    trainer = training.make_trainer(recipe("trainer.precision=bf16-mixed"), RunFolder(tmp_path))
    assert training.describe_device(trainer) == "1 x CPU (1 thread), bf16-mixed"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_is_the_resident_set():
    status = Path("/proc/self/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert progress.memory_gib(torch.device("cpu")) == pytest.approx(int(kib) / 2**20, rel=0.05)


def test_sounds_can_be_turned_off(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.training.listening.heard", lambda *_: pytest.fail("asked for"))
    train(tmp_path, "logging.audio_every_n_steps=0", steps=2)
    with pytest.raises(ValueError, match="audio_every_n_steps must be 0"):
        LoggingConfig(audio_every_n_steps=-1)


# -------------------------------------------------------------------------------------------------- trouble


class FullDisk(Logger):
    """Opens, then fails at whatever it is asked for."""

    experiment = None

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name == "experiment":
            return super().__getattribute__(name)
        raise OSError("no space left on device")

    name = version = property(lambda self: None)

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, params, *args, **kwargs): ...


class Unopenable(FullDisk):
    @property
    def experiment(self) -> Any:
        raise ConnectionError("network is down")


def test_broken_loggers_do_not_stop_training(tmp_path, monkeypatch, caplog):
    loggers = [FullDisk(), Unopenable(), CSVLogger(tmp_path, name="", version="csv")]
    monkeypatch.setattr(training, "make_loggers", lambda *_: [SafeLogger(logger) for logger in loggers])
    with caplog.at_level(logging.WARNING, "distill.training.loggers"):
        trainer = train(tmp_path, "logging.audio_every_n_steps=2")
    assert trainer.global_step == STEPS
    assert columns(tmp_path).keys() >= KEYS
    said = [record.message for record in caplog.records if record.name == "distill.training.loggers"]
    assert sorted(message.split()[0] for message in said) == ["FullDisk", "Unopenable"]
    assert "FullDisk failed: OSError: no space left on device; training continues" in "".join(said)
    assert "Unopenable cannot be opened: ConnectionError: network is down" in "".join(said)


def test_a_log_folder_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "csv").write_text("a file where the folder should be")
    assert train(tmp_path, steps=2).global_step == 2
    assert [r.message.split()[0] for r in caplog.records if r.name == "distill.training.loggers"] == [
        "CSVLogger"
    ]


def test_sounds_that_cannot_be_shown_do_not_stop_training(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ImportError("no fonts")

    monkeypatch.setattr("distill.training.listening.draw_spectrograms", fail)
    assert train(tmp_path, "logging.audio_every_n_steps=1", steps=2).global_step == 2
    assert "TensorBoardLogger failed: ImportError: no fonts" in caplog.text


def test_interrupts_are_no_trouble_of_a_logger():
    class Interrupted(FullDisk):
        def __getattribute__(self, name: str) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeLogger(Interrupted()).save()


def test_wandb_out_of_reach_is_written_offline(tmp_path, monkeypatch, caplog):
    import wandb
    from wandb.errors import CommError

    init = wandb.init

    def unreachable(**options):
        if options.get("mode") != "offline":
            raise CommError("timed out")
        return init(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    train(tmp_path, "logging.wandb=online", steps=2)
    assert "cannot be reached: CommError: timed out; logging offline instead" in caplog.text
    history = wandb_history(tmp_path)  # of this run only, though others ran in this process
    assert [row["trainer/global_step"] for row in history if "train/loss" in row] == [1]


def test_each_training_of_a_process_has_its_own_wandb_run(tmp_path):
    """Even while the one before is still open."""
    loggers: list[Any] = [
        make_loggers(recipe("logging.wandb=offline"), RunFolder(tmp_path / name))[2]
        for name in ("first", "second")
    ]
    try:
        assert loggers[0].experiment.id != loggers[1].experiment.id
    finally:
        for logger in loggers:
            logger.finalize("success")


SWITCHES = {  # of the environment: what wandb="auto", "online", "offline" and "off" then are
    (): ("offline", "online", "offline", "off"),
    ("WANDB_API_KEY=k",): ("online", "online", "offline", "off"),
    ("WANDB_MODE=online",): ("online", "online", "offline", "off"),
    ("WANDB_MODE=offline", "WANDB_API_KEY=k"): ("offline", "online", "offline", "off"),
    ("WANDB_MODE=dryrun", "WANDB_API_KEY=k"): ("offline", "online", "offline", "off"),
    ("WANDB_MODE=disabled", "WANDB_API_KEY=k"): ("off", "off", "off", "off"),
    ("WANDB_DISABLED=true", "WANDB_API_KEY=k"): ("off", "off", "off", "off"),
    ("WANDB_DISABLED=false", "WANDB_API_KEY=k"): ("online", "online", "offline", "off"),
    ("WANDB_DISABLED=1", "WANDB_MODE=online"): ("off", "off", "off", "off"),
}


@pytest.mark.parametrize("switches", SWITCHES, ids=" ".join)
def test_the_switches_of_wandb_are_honoured(switches, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for switch in switches:
        monkeypatch.setenv(*switch.split("="))
    wishes = ("auto", "online", "offline", "off")
    assert tuple(map(wandb_mode, wishes)) == SWITCHES[switches]
    loggers = [make_loggers(recipe(f"logging.wandb={wish}"), RunFolder(tmp_path / wish)) for wish in wishes]
    kinds = {2: "off", "OfflineWandbLogger": "offline", "WandbLogger": "online"}
    made = [kinds[cast(Any, found[2]).kind if len(found) > 2 else 2] for found in loggers]
    assert tuple(made) == SWITCHES[switches]
