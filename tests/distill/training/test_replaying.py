"""Steps that were not finite, made again."""

import pytest
import torch

from distill.distillation import Distillation
from distill.pretraining.spiral import SpiralPretraining
from distill.run import run
from tests.distill.training.runs import tiny


def spoil(monkeypatch, *positions: tuple[int, int]) -> None:
    """Let the speech of the batches at these positions be NaN, in every run."""
    for module in (Distillation, SpiralPretraining):

        def training_step(self, batch, batch_idx, original=module.training_step):
            if batch.position in positions:
                batch.waveforms = batch.waveforms * float("nan")
            return original(self, batch, batch_idx)

        monkeypatch.setattr(module, "training_step", training_step)


@pytest.mark.parametrize("name", ["s6", "spiral_mini_mct"])
def test_a_step_that_was_not_finite_is_made_again(mini_data, tmp_path, monkeypatch, distill, name):
    with monkeypatch.context() as patch:
        spoil(patch, (0, 1))
        run(tiny(mini_data, name=name, steps=3), tmp_path)
        file = tmp_path / "nonfinite" / "step-1.ckpt"
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, said, _ = distill("train", "--replay", file)
        assert code == 0 and said.startswith("step 1: 4 utterances, ")
        assert said.splitlines()[1:3] == ["speech: finite", "weights: finite"]  # as it came from the loader
        assert "is the first that is not finite" in said and "tensors are not finite" in said
        assert said.splitlines()[-1] == "reproduced"
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert distill("train", "--replay", file)[1].splitlines()[-1].startswith("not reproduced")


def test_what_cannot_be_replayed_is_a_line(mini_data, tmp_path, monkeypatch, distill):
    with monkeypatch.context() as patch:
        spoil(patch, (0, 1))
        run(tiny(mini_data, steps=2), tmp_path / "run")
    file = tmp_path / "run" / "nonfinite" / "step-1.ckpt"
    kept = torch.load(file, weights_only=True)
    wrong = {
        "is damaged (": b"PK",
        "is no step that was kept": {"state_dict": {}},
        "does not say which step": kept | {"replay": kept["replay"] | {"position": [0, "1"]}},
        "does not fit its recipe": kept | {"state_dict": {"student.x": torch.ones(1)}},
        "data.train has changed": kept | {"replay": kept["replay"] | {"ids": ["gone"]}},
    }
    for message, contents in wrong.items():
        if isinstance(contents, bytes):
            file.write_bytes(contents)
        else:
            torch.save(contents, file)
        code, _, err = distill("train", "--replay", file)
        assert code == 1 and message in err.splitlines()[-1] and "Traceback" not in err, err
    for words in (["s4"], ["--resume", tmp_path / "run"], ["--out", tmp_path]):
        assert distill("train", "--replay", file, *words)[0] == 2
    code, _, err = distill("train", "--replay", tmp_path / "nowhere" / "step-1.ckpt")
    assert code == 1 and "is not in a run folder" in err
