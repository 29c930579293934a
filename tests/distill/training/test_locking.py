"""One training at a time in a folder, on one machine or several."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from distill.errors import UserError
from distill.run import run
from distill.training import locking
from distill.training.locking import NAME, RunLock, Watch
from distill.training.run_folder import RunFolder
from tests.distill.training.runs import tiny

pytestmark = pytest.mark.slow


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


def test_a_run_in_progress_is_not_said_to_be_an_earlier_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    with RunLock(tmp_path), pytest.raises(UserError, match="holds a run already"):
        RunFolder(tmp_path).check(resume=False)
    other = os.getppid()
    write_lock(tmp_path, pid=other, started=locking._stat(other)[1])
    with pytest.raises(UserError, match=f"is being trained by process {other} on "):
        RunFolder(tmp_path).check(resume=False)
    write_lock(tmp_path, started="0")  # gone
    with pytest.raises(UserError, match="holds a run already"):
        RunFolder(tmp_path).check(resume=False)


def test_followers_leave_it_to_the_first(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with RunLock(tmp_path):
            pass
        assert (tmp_path / NAME).exists()


def test_those_who_wait_see_whether_the_first_is_there(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(locking.time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path)
    now[0] = locking.BEGIN_S - 1  # it may take its time to begin
    watch.check()
    write_lock(tmp_path)
    watch.check()
    now[0] += 2.5 * locking.SILENT_S  # of a dead process, that the first is about to take over
    for touched in range(3):
        watch.check()
        now[0] += locking.SILENT_S * 0.9
        os.utime(tmp_path / NAME, (touched, touched + 1))
    watch.check()
    now[0] += locking.SILENT_S * 1.1
    with pytest.raises(UserError, match="the first process has ended or is silent"):
        watch.check()
    os.utime(tmp_path / NAME)
    watch.check()
    (tmp_path / NAME).unlink()
    watch.check()  # it may have replaced it
    now[0] += locking.SILENT_S * 1.1
    with pytest.raises(UserError, match="the first process has ended or is silent"):
        watch.check()


def test_a_lock_that_nobody_takes_over_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(locking.time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path)
    write_lock(tmp_path)
    watch.check()
    now[0] += 3.1 * locking.SILENT_S
    with pytest.raises(UserError, match="the first process has ended or is silent"):
        watch.check()


def test_a_process_that_never_begins_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(locking.time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path / "nowhere")
    now[0] = locking.BEGIN_S + 1
    with pytest.raises(UserError, match="has not begun there: all machines must see the same run folder"):
        watch.check()


def test_a_killed_process_leaves_no_lock_behind(tmp_path, caplog):
    """As after `kill -9`: known at once on the same machine."""
    code = f"from pathlib import Path; from distill.training.locking import RunLock; import os; \
RunLock(Path({str(tmp_path)!r})).__enter__(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / NAME).exists()
    started = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - started < 0.3
    assert "has ended, its lock is taken over" in caplog.text


def test_a_number_that_another_process_has_by_now(tmp_path, caplog):
    write_lock(tmp_path, started="12")
    with RunLock(tmp_path):
        assert "taken over" in caplog.text


def test_a_process_that_has_ended_and_is_not_waited_for(tmp_path, caplog):
    """In a container whose first process does not care for others' children."""
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()
        while locking._stat(child.pid)[0] != "Z":
            time.sleep(0.01)
        write_lock(tmp_path, pid=child.pid, started=locking._stat(child.pid)[1])
        with RunLock(tmp_path):
            assert "taken over" in caplog.text and "waiting" not in caplog.text


def test_a_number_that_a_process_of_another_user_has_by_now(tmp_path, monkeypatch, caplog):
    def kill(*_):
        raise PermissionError

    write_lock(tmp_path, started="12")
    monkeypatch.setattr(os, "kill", kill)
    with RunLock(tmp_path):
        assert "taken over" in caplog.text and "waiting" not in caplog.text


def test_a_process_that_cannot_be_seen_is_watched(tmp_path, monkeypatch, caplog):
    write_lock(tmp_path, started="12")
    monkeypatch.setattr(locking, "_stat", lambda _: ("", ""))
    with RunLock(tmp_path):
        assert "waiting up to 0 s for a sign of life" in caplog.text and "taken over" in caplog.text


def test_a_full_disk_leaves_no_empty_lock(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(locking.json, "dumps", full)
        with pytest.raises(OSError, match=r"No space left on device: .*\.lock"):
            RunLock(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


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
        assert lock._owner() == lock.token


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_lock_stops_nobody_for_ever(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with RunLock(tmp_path) as lock:
        assert lock._owner() == lock.token


def test_who_has_lost_the_folder_ends(tmp_path):
    """A process that was stopped for so long that it seemed dead."""
    with RunLock(tmp_path) as lock:
        write_lock(tmp_path, token="other", pid=7, host="node7")
        time.sleep(0.2)
        with pytest.raises(UserError, match="taken over by another process, process 7 on node7"):
            lock.on_train_batch_end()
    assert (tmp_path / NAME).exists()  # it is theirs


def test_what_was_trained_is_not_released_into_a_folder_that_was_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "BEAT_S", 60.0)  # it has not noticed yet
    with RunLock(tmp_path) as lock:
        lock.check()
        write_lock(tmp_path, token="other", pid=7, host="node7")
        with pytest.raises(UserError, match="taken over by another process, process 7 on node7"):
            lock.check()


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_lock_that_is_removed_or_cannot_be_read_ends_no_run(tmp_path, content):
    """A file system of the network that answers late, or somebody who tidies up."""
    with RunLock(tmp_path) as lock:
        if content is None:
            lock.path.unlink()
        else:
            lock.path.write_text(content)
        time.sleep(0.2)
        lock.on_train_batch_end()
        lock.check()
        assert lock.path.exists() and not lock.lost


@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_two_trainings_do_not_share_a_folder(mini_data, tmp_path, name):
    with RunLock(tmp_path):
        with pytest.raises(UserError, match="is being trained by process"):
            run(tiny(mini_data, name=name), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert run(tiny(mini_data, name=name), tmp_path).exists()
    assert not (tmp_path / NAME).exists()
