"""Disk, memory, shared memory, open files, and the run folder."""

import shutil
from collections import namedtuple
from types import SimpleNamespace

from distill.config import load
from distill.hubert import PRESETS
from distill.preflight import check_machine
from distill.preflight.check import check
from distill.preflight.needs import estimate
from distill.training.devices import layout_of
from tests.distill.preflight.reports import finding, mini


def test_a_full_disk_and_a_run_that_is_there(mini_data, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    report = check(mini(mini_data), tmp_path)
    assert report.ok and "--resume" in finding(report, "run").detail
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1_000_000))
    disk = finding(check(mini(mini_data), tmp_path / "new" / "er"), "disk")
    assert disk.state == "missing" and f"{tmp_path} has 0.0 GB free" in disk.problem


def test_too_little_memory_is_said_but_does_not_stop_a_run(mini_data, monkeypatch):
    monkeypatch.setattr("distill.preflight.check_machine.available_memory", lambda: 10_000_000)
    report = check(mini(mini_data))
    assert report.ok and finding(report, "memory").state == "note"
    assert "note: memory: may not be enough" in str(report)


def test_little_room_for_handing_batches_over(monkeypatch):
    """A container with 64 MB of shared memory, and a low limit of open files."""
    recipe = load("s4", ["data.workers=4", "trainer.accelerator=cpu"])
    needs = estimate(recipe, PRESETS["base"], layout_of(recipe))
    batch = 24 * 250_000 * 4 * 3  # speech, and noise for teacher and student
    assert needs.shared == 2 * (4 + 2) * batch and needs.open_files < 200
    usage = SimpleNamespace(free=64 << 20)
    monkeypatch.setattr(check_machine.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(check_machine, "most_open_files", lambda: 64)
    shared, files = check_machine._handing_over(needs)
    assert (shared.what, shared.state, shared.detail) == ("shared memory", "note", "up to 0.9 GB of 0.1 GB")
    assert "--shm-size=1g" in shared.fix
    assert (files.what, files.state) == ("open files", "note") and "the limit is 64" in files.detail
    usage.free = 1 << 40
    monkeypatch.setattr(check_machine, "most_open_files", lambda: None)
    (shared,) = check_machine._handing_over(needs)
    assert (shared.state, shared.fix) == ("ok", "")
