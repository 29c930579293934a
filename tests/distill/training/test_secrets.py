"""No secret of the environment is written: to logs, recipes, checkpoints, exports or reports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

NAMES = (
    *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("GITHUB_TOKEN", "SLURM_JWT", "MY_PASSWORD"),
)
SECRETS = {name: f"s3cr3t{number:02d}{'x' * 32}" for number, name in enumerate(NAMES)}
"""40 letters each, as a key of Weights & Biases has."""
WORK = """
import sys
from pathlib import Path
from distill.cli import main
from tests.distill.training.runs import overrides

data, out = map(Path, sys.argv[1:])
words = overrides(data, "logging.wandb=offline", "logging.audio_every_n_steps=1")
codes = [
    main(["train", "s4", *words, "--out", f"{out}/run"]),
    main(["train", "s4", *words, "teacher=nowhere", "--out", f"{out}/failed"]),
    main(["train", "s4", *words, "--print"]),
    main(["inspect", f"{out}/run"]),
    main(["export", f"{out}/run", "--to", "huggingface", "--out", f"{out}/exported"]),
    main(["report", f"{out}/run", "--out", f"{out}/report.html"]),
]
print("codes", codes)
"""


@pytest.mark.slow
def test_nothing_of_the_environment_is_written(tmp_path, mini_data):
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(mini_data), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | SECRETS | {"WANDB_MODE": "offline"},
    )
    assert "codes [0, 1, 0, 0, 0, 0]" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "report.html").exists() and list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert _found("s3cr3t", tmp_path) == [] and "s3cr3t" not in done.stdout + done.stderr


def _found(text: str, folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_a_secret_would_be_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_bytes(b"\x00key=s3cr3t-01\xff")
    assert _found("s3cr3t", tmp_path) == ["a/log"]
