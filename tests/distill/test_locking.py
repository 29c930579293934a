"""One training at a time in a folder, on one machine or several."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from distill import locking
from distill.errors import UserError
from distill.locking import NAME, RunLock
from distill.training import run
from tests.distill.test_training import tiny


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(locking, "BEAT_S", 0.05)
    monkeypatch.setattr(locking, "SILENT_S", 0.4)
    monkeypatch.setattr(locking, "_POLL_S", 0.02)


def write_lock(folder, **changes):
    """That of another process."""
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps({"token": "x", **locking._this_process(), **changes}))


def test_a_folder_is_held_once_and_given_back(tmp_path):
    with RunLock(tmp_path / "run") as lock:
        assert lock.path.exists()
        with pytest.raises(UserError, match=f"is being trained by process {os.getpid()} on ") as error:
            RunLock(tmp_path / "run").__enter__()
        assert "\n" not in str(error.value) and "another --out" in str(error.value)
    assert not lock.path.exists()
    with RunLock(tmp_path / "run"):
        pass
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path / "run"):
        raise ZeroDivisionError
    assert not list((tmp_path / "run").iterdir())


def test_followers_leave_it_to_the_first(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with RunLock(tmp_path):
            pass
        assert (tmp_path / NAME).exists()


def test_a_killed_process_leaves_no_lock_behind(tmp_path, caplog):
    """As after `kill -9`: known at once on the same machine."""
    code = f"from pathlib import Path; from distill.locking import RunLock; import os; \
RunLock(Path({str(tmp_path)!r})).__enter__(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / NAME).exists()
    started = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - started < 0.3
    assert "is gone, its lock is taken over" in caplog.text


def test_a_number_that_another_process_has_by_now(tmp_path, caplog):
    write_lock(tmp_path, started="12")
    with RunLock(tmp_path):
        assert "taken over" in caplog.text


@pytest.mark.parametrize("there", [{"host": "node7"}, {"space": "pid:[1]"}])
def test_a_silent_process_elsewhere_is_taken_over_after_a_while(tmp_path, caplog, there):
    """A job that was put back into the queue and starts on another machine or in another container."""
    write_lock(tmp_path, **there)
    with RunLock(tmp_path):
        assert "waiting up to 0 s for a sign of life" in caplog.text and "taken over" in caplog.text


def test_a_process_elsewhere_that_shows_life_is_not(tmp_path):
    write_lock(tmp_path, host="node7", pid=99)

    def live():
        for _ in range(8):
            time.sleep(0.05)
            os.utime(tmp_path / NAME)

    other = threading.Thread(target=live)
    other.start()
    with pytest.raises(UserError, match="is being trained by process 99 on node7: wait"):
        RunLock(tmp_path).__enter__()
    other.join()


def test_one_that_ends_while_another_waits(tmp_path):
    write_lock(tmp_path, host="node7")
    threading.Timer(0.1, (tmp_path / NAME).unlink).start()
    with RunLock(tmp_path) as lock:
        assert lock._is_mine()


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_lock_stops_nobody_for_ever(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with RunLock(tmp_path) as lock:
        assert lock._is_mine()


def test_who_has_lost_the_folder_ends(tmp_path):
    """A process that was stopped for so long that it seemed to be gone."""
    with RunLock(tmp_path) as lock:
        write_lock(tmp_path, token="other", pid=7, host="node7")
        time.sleep(0.2)
        with pytest.raises(UserError, match="taken over by another process, process 7 on node7"):
            lock.on_train_batch_end()
    assert (tmp_path / NAME).exists()  # it is theirs


@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_two_trainings_do_not_share_a_folder(mini_data, tmp_path, name):
    with RunLock(tmp_path):
        with pytest.raises(UserError, match="is being trained by process"):
            run(tiny(mini_data, name=name), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert run(tiny(mini_data, name=name), tmp_path).exists()
    assert not (tmp_path / NAME).exists()
