"""What is logged, where it can be read, and that failures of loggers stop nothing."""

import http.server
import json
import logging
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from pytorch_lightning.loggers import CSVLogger, Logger

from distill.distortions import LABELS
from distill.run import run
from distill.training import trainer as training
from distill.training.listening import describe
from distill.training.loggers import SafeLogger, make_loggers, wandb_mode
from distill.training.run_folder import RunFolder
from tests.distill.ddp_worker import make_batches, make_module
from tests.distill.training.logs import STEPS, columns, recipe, train
from tests.distill.training.runs import tiny

KEYS = {
    *("train/loss", "train/l1", "train/cosine"),
    *(f"train/{term}_layer{layer}" for term in ("l1", "cosine") for layer in (1, 2, 3)),
    *("gradient_norm", "gradient_norm_cnn", "gradient_norm_transformer", "gradient_norm_heads"),
    *("lr", "audio_s_per_s", "mfu", "data_wait_share", "memory_gib", "dat/loss", "dat/accuracy"),
    *(f"dat_accuracy_by_type/{label}" for label in LABELS),
    *(f"loss_by_type/{label}" for label in ("gaussian", "reverb", "pitch", "band_reject", "clean")),
}


SOUNDS = {"heard/teacher", "heard/student"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> Path:
    """A run with all loggers on, sounds at the third and sixth step."""
    out = tmp_path_factory.mktemp("logged")
    train(out, "logging.wandb=offline", "logging.audio_every_n_steps=3")
    return out


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
        waves, _ = module.distort(batch, name)
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


def test_interrupts_are_no_trouble_of_a_logger():
    class Interrupted(FullDisk):
        def __getattribute__(self, name: str) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SafeLogger(Interrupted()).save()


def test_wandb_out_of_reach_is_written_offline(tmp_path, monkeypatch, caplog):
    import wandb
    from wandb.errors import CommError, UsageError

    init, taken = wandb.init, set()

    def unreachable(**options):
        assert options["settings"]["init_timeout"] < 90
        if options["id"] in taken:  # wandb's service keeps the id of a run that could not be begun
            raise UsageError(f"run ID {options['id']} is in use")
        taken.add(options["id"])
        if options.get("mode") != "offline":
            raise CommError("timed out")
        return init(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    train(tmp_path, "logging.wandb=online", steps=2)
    assert "cannot be reached: CommError: timed out; logging offline instead" in caplog.text
    history = wandb_history(tmp_path)  # of this run only, though others ran in this process
    assert [row["trainer/global_step"] for row in history if "train/loss" in row] == [1]


class Denying(http.server.BaseHTTPRequestHandler):
    """A server of Weights & Biases that does not let anybody in."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "permission denied"}]}')

    do_GET = do_POST

    def log_message(self, format, *args): ...


@pytest.mark.slow
def test_wandb_that_denies_is_written_offline(tmp_path):
    """With the real library, in a process of its own: it keeps the server's address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Denying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
import sys
from pathlib import Path
from tests.distill.training.logs import train
train(Path(sys.argv[1]), "logging.wandb=online", steps=2)
"""
    address = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "0" * 40}
    words = [sys.executable, "-c", code, str(tmp_path)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | address
    done = subprocess.run(words, env=env, stderr=subprocess.PIPE, text=True, check=False)
    server.shutdown()
    assert done.returncode == 0 and "permission denied" in done.stderr, done.stderr
    assert "logging offline instead" in done.stderr and "in use" not in done.stderr
    history = wandb_history(tmp_path)
    assert [row["trainer/global_step"] for row in history if "train/loss" in row] == [1]


@pytest.mark.parametrize("missing", ["TensorBoardLogger", "OfflineWandbLogger"])
def test_a_logger_that_is_not_installed_is_left_out(tmp_path, monkeypatch, caplog, missing):
    def not_installed(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr(f"distill.training.loggers.{missing}", not_installed)
    made = make_loggers(recipe("logging.wandb=offline"), RunFolder(tmp_path))
    assert len(made) == 2 and "is available.; training continues without that log" in caplog.text


@pytest.mark.parametrize("text", ["", "two words", "../../elsewhere", "x" * 100, "\0"])
def test_a_damaged_id_of_wandb_is_replaced(tmp_path, text):
    folder = RunFolder(tmp_path)
    folder.wandb_id.write_text(text)
    make_loggers(recipe("logging.wandb=offline"), folder)
    made = folder.wandb_id.read_text().strip()
    assert re.fullmatch("[0-9a-f]{8}", made)
    make_loggers(recipe("logging.wandb=offline"), folder)
    assert folder.wandb_id.read_text().strip() == made


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


def test_an_offline_wandb_run_is_written(mini_data, tmp_path):
    run(tiny(mini_data, "logging.wandb=offline", name="s1"), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert file.stat().st_size > 0


def test_a_resumed_run_goes_on_in_weights_and_biases(mini_data, tmp_path):
    first = tiny(mini_data, "logging.wandb=offline", steps=2)
    run(first, tmp_path)
    run(tiny(mini_data, "logging.wandb=offline", steps=4), tmp_path, resume=True)
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    ids = {name.split("-")[3] for name in folders}  # offline-run-TIME-ID, and -1 if both begin in one second
    assert len(folders) == 2 and len(ids) == 1
