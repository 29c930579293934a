"""Work in blocks: resumed, shared by processes, and ended with them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from distill.data import blocks
from distill.data.blocks import BlockRunner, block_ranges, noted_settings
from distill.errors import DataError, UserError
from tests.distill.data.block_makers import FileMaker
from tests.paths import ROOT

CPU = torch.device("cpu")


class Bar:
    """A progress bar that only counts."""

    made: "list[Bar]" = []

    def __init__(self, total, **_):
        self.total, self.n = total, 0
        Bar.made.append(self)

    def update(self, n):
        self.n += n

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(blocks, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


def run(runner, maker, kind, n_blocks):
    runner.run(kind, lambda: maker.missing(kind, n_blocks), lambda _: 2, description=kind, progress=False)


def makers_of(folder, kind):
    return {tuple(path.read_text().split()) for path in folder.glob(f"{kind}-*")}


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def has_begun(folder):
    return (folder / "slow").exists() and (folder / "slow").read_text()


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited a minute")


def test_ranges_cover_all_utterances_once():
    assert block_ranges(7, 3) == [range(0, 3), range(3, 6), range(6, 7)]
    assert block_ranges(0, 3) == []


def test_settings_that_are_missing_or_damaged(tmp_path):
    path = tmp_path / "job.json"
    assert noted_settings(path) is None and noted_settings(path / "below") is None
    for damaged in ("{", "[]"):
        path.write_text(damaged)
        assert noted_settings(path) == {}
    path.write_text(json.dumps({"seed": 1}))
    assert noted_settings(path) == {"seed": 1}


def test_one_process_makes_what_is_missing(tmp_path, bars):
    maker = FileMaker(tmp_path)
    (tmp_path / "fine-1").write_text("0 before")
    with BlockRunner(maker) as runner:
        run(runner, maker, "fine", 4)
    assert makers_of(tmp_path, "fine") == {("0", "before"), (str(os.getpid()), "cpu")}
    assert [(bar.n, bar.total) for bar in bars] == [(6, 6)]


def test_blocks_of_another_run_are_waited_for(tmp_path, bars, monkeypatch):
    maker = FileMaker(tmp_path)

    def refuse_block_1(kind, block, tick):
        return block != 1 and maker(kind, block, tick)

    refuse_block_1.device = ""
    monkeypatch.setattr(blocks.time, "sleep", lambda _: (tmp_path / "fine-1").write_text("1 other"))
    with BlockRunner(refuse_block_1) as runner:  # pyright: ignore[reportArgumentType]
        run(runner, maker, "fine", 3)
    assert ("1", "other") in makers_of(tmp_path, "fine") and bars[0].n == 4  # the other's are not ours


def test_processes_share_the_blocks_and_end_with_the_context(tmp_path, bars):
    maker = FileMaker(tmp_path)
    with BlockRunner(maker, jobs=2) as runner:
        run(runner, maker, "fine", 8)
        run(runner, maker, "again", 2)
        assert [(bar.n, bar.total) for bar in bars] == [(16, 16), (4, 4)]
        run(runner, maker, "alone", 1)
    assert makers_of(tmp_path, "alone") == {(str(os.getpid()), "cpu")}  # not worth another process
    processes = {int(pid) for pid, _ in makers_of(tmp_path, "fine")}
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes
    assert not any(map(is_alive, processes))


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("killed", DataError, "ended .killed for its memory.*fewer processes; finished blocks are kept"),
        ("mistake", DataError, "^block 3 is bad$"),
        ("full", UserError, "^labels: No space left on device; .* finished blocks are kept$"),
    ],
)
def test_what_goes_wrong_in_a_process_is_one_line(tmp_path, kind, error, message):
    maker = FileMaker(tmp_path)
    with BlockRunner(maker, jobs=2) as runner, pytest.raises(error, match=message) as caught:
        run(runner, maker, kind, 6)
    assert "\n" not in str(caught.value)
    if kind == "full":
        with BlockRunner(maker) as runner, pytest.raises(error, match=message):
            run(runner, maker, kind, 6)


def test_each_process_has_a_device_of_its_own(monkeypatch):
    started, counted = blocks._worker.copy(), torch.multiprocessing.get_context("spawn").Value("i", 0)
    monkeypatch.setattr(blocks, "_worker", started)
    monkeypatch.setattr(blocks.signal, "signal", lambda *_: None)
    monkeypatch.setattr(blocks, "_end_with_main_process", lambda _: None)
    found = []
    for _ in range(3):
        maker = FileMaker(None)  # pyright: ignore[reportArgumentType]
        blocks._start_worker(maker, ["cuda:1", "cuda:3"], counted, None, None)  # pyright: ignore
        found.append(maker.device)
    assert found == ["cuda:1", "cuda:3", "cuda:1"]


def test_on_gpus_there_is_one_process_for_each(tmp_path):
    maker = FileMaker(tmp_path)
    with BlockRunner(maker, jobs=8, devices=[torch.device("cuda", 3)]) as runner:
        run(runner, maker, "fine", 2)
    assert makers_of(tmp_path, "fine") == {(str(os.getpid()), "cuda:3")}
    with pytest.raises(ValueError, match="jobs must be 1 to 1024, not 0"):
        BlockRunner(maker, jobs=0)


@pytest.fixture
def interruptible():
    """What is started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_processes_in_the_middle_of_a_block(tmp_path, interruptible):
    maker = FileMaker(tmp_path)

    def interrupt():
        until(lambda: has_begun(tmp_path))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt), BlockRunner(maker, jobs=2) as runner:
        run(runner, maker, "slow", 6)
    until(lambda: not is_alive(int((tmp_path / "slow").read_text())))


MAIN = """
import sys
from pathlib import Path
from distill.data.blocks import BlockRunner
from tests.distill.data.block_makers import FileMaker

if __name__ == "__main__":
    maker = FileMaker(Path(sys.argv[1]))
    with BlockRunner(maker, jobs=2) as runner:
        missing = lambda: maker.missing("slow", 6)
        runner.run("slow", missing, lambda _: 2, description="slow")
"""


@pytest.mark.slow
def test_processes_end_when_the_main_one_is_killed(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    main = subprocess.Popen([sys.executable, str(tmp_path / "main.py"), str(tmp_path)], env=environment)
    until(lambda: has_begun(tmp_path))
    main.kill()
    main.wait()
    until(lambda: not is_alive(int((tmp_path / "slow").read_text())))
