"""Threads sleep while they wait, and fit into the quota of a container, unless the user says otherwise."""

import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from distill.cli import threads
from distill.cli.threads import WAITING, cpu_quota, share_cores
from tests.paths import ROOT


@pytest.fixture
def chosen(monkeypatch):
    """What is added to an environment, on a machine of `cores` whose containers have a quota."""

    def choose(environment, *, cores=8, quota=math.inf, gpu=False):
        monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
        monkeypatch.setattr(threads, "GPU", ROOT if gpu else ROOT / "none")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(threads, "sys", SimpleNamespace(modules={}, platform="linux"))
        after = dict(environment)
        share_cores(after)
        assert environment.items() <= after.items()
        return {name: value for name, value in after.items() if name not in environment}

    return choose


SLEEPING = {"GOMP_SPINCOUNT": "3000"}


def test_threads_sleep_unless_the_user_says_how_they_wait(chosen):
    assert chosen({}) == SLEEPING
    for name, value in (("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "9"), ("KMP_BLOCKTIME", "0")):
        assert chosen({name: value}) == {}


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [(8, 2.0, "2"), (8, 2.9, "2"), (8, 0.5, "1"), (8, 8.0, None), (2, 4.0, None), (8, math.inf, None)],
)
def test_no_more_threads_than_the_quota(chosen, cores, quota, expected):
    """Affinity alone is left to OpenMP, which minds it."""
    assert chosen({}, cores=cores, quota=quota).get("OMP_NUM_THREADS") == expected


def test_the_number_of_threads_of_the_user_a_launcher_or_beside_a_gpu_stays(chosen):
    assert chosen({"OMP_NUM_THREADS": "6"}, quota=2) == SLEEPING
    assert chosen({"WORLD_SIZE": "2"}, quota=2) == chosen({"LOCAL_RANK": "0"}, quota=2) == SLEEPING
    assert chosen({}, quota=2, gpu=True) == SLEEPING


def test_a_program_that_has_torch_keeps_its_environment():
    environment: dict[str, str] = {}
    share_cores(environment)
    assert "torch" in sys.modules and not environment


def version_1(group, quota):
    return {f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "300000 100000\n"}, 1.0),
        ("4:cpuset:/\n3:cpu,cpuacct:/x", version_1("cpu/x", 50_000), 0.5),
        ("3:cpu:/gone", version_1("cpu", 200_000), 2.0),
        ("3:cpu:/", version_1("cpu", -1), math.inf),
        ("0::/", {"cpu.max": "rubbish\n"}, math.inf),
        ("0::/../x", {}, math.inf),
    ],
)
def test_the_quota_is_the_lowest_from_the_group_up(tmp_path, groups, files, expected):
    (tmp_path / "own").write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert cpu_quota(tmp_path / "groups", tmp_path / "own") == expected
    assert cpu_quota(tmp_path, tmp_path / "nowhere") == math.inf  # no Linux


def test_the_environment_is_set_before_torch_is_imported():
    """OpenMP reads it then, and says so itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "VERBOSE"}
    for name in WAITING:
        environment.pop(name, None)
    code = "import sys; from distill.cli import main; sys.exit(main(['inspect', 'nothing']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "nothing does not exist" in done.stderr
    assert "GOMP_SPINCOUNT = '3000'" in done.stderr or "GOMP_SPINCOUNT" not in done.stderr
