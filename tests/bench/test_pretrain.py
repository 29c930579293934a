"""The steps that are measured run; full rows, down to whole output frames."""

import pytest

from bench import pretrain


@pytest.mark.parametrize("make", [pretrain.spiral, pretrain.hubert])
def test_a_step_runs(monkeypatch, make):
    monkeypatch.setattr(pretrain, "SECONDS", 2)
    step, forward = make("cpu", "mini")
    step()
    step()
    forward()
