"""One step again whose gradient was not finite: where does it begin?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from typing_extensions import override

from distill.data.datamodule import SpeechData
from distill.encoder import EncoderConfig
from distill.errors import CheckpointError, DataError, listed
from distill.options import LoggingConfig, Recipe
from distill.training.resuming import StepSeed
from distill.training.run_folder import RunFolder
from distill.training.saving import read_checkpoint
from distill.training.trainer import first_misfit, make_trainer


def replay(
    path: Path, recipe: Recipe, module: pl.LightningModule, model: EncoderConfig, streams: Sequence[str]
) -> str:
    """Make a kept step again, in one process, and say what is not finite in it.

    Batch, distortions, masks and dropout are those of the step, except that dropout was another one in each
    process where several trained.

    Args:
        path: of `StepKeeper`.
        recipe: of its run.
        module: of the recipe; gets the weights of the file.
        model: whose frames crops follow.
        streams: the distorted views of a batch.

    Returns:
        Lines for the user.

    Raises:
        CheckpointError: if the file is damaged or something else, or does not fit the recipe.
        DataError: if the data do not give the batch of the step any more.
    """
    found = read_checkpoint(path)
    about, weights = _about(found, path)
    module.on_load_checkpoint(found)  # adds the teacher's, which are not in the file
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit its recipe: {first_misfit(error)}") from None
    data = SpeechData(recipe, streams=streams)
    data.model = model
    data.load_state_dict({"epoch": about["position"][0], "batches": about["position"][1]})
    watch = Watch(module)
    _make_step(recipe, module, data, watch)
    if not set(about["ids"]) <= set(watch.ids):  # of several processes, these are the first one's
        raise DataError(
            f"{path} is of {listed(about['ids'])}, but the recipe's data have {listed(watch.ids)} there: "
            "data.train has changed"
        )
    return "\n".join(
        [f"step {about['step']}: {len(watch.ids)} utterances, {listed(watch.ids)}", *watch.lines()]
    )


def _make_step(recipe: Recipe, module: pl.LightningModule, data: SpeechData, watch: Watch) -> None:
    """One step of the training, that leaves nothing behind."""
    options = {key: value for key, value in recipe.trainer.items() if key not in ("strategy", "num_nodes")}
    alone = replace(
        recipe, trainer=options | {"devices": 1}, logging=LoggingConfig(wandb="off", audio_every_n_steps=0)
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = make_trainer(alone, RunFolder(Path(folder)))
        trainer.callbacks = [StepSeed(recipe.seed), watch]
        trainer.loggers = []
        trainer.limit_val_batches = 0
        trainer.fit_loop.epoch_loop.max_steps = 1
        trainer.fit(module, datamodule=data)


def _about(found: Any, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of its step, and its weights."""
    about = found.get("replay") if isinstance(found, dict) else None
    weights = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(about, dict) or not isinstance(weights, dict):
        raise CheckpointError(f"{path} is no step that was kept, expected RUN/nonfinite/step-N.ckpt")
    position, ids, step = (about.get(key) for key in ("position", "ids", "step"))
    right = isinstance(position, list) and [type(number) for number in position] == [int, int]
    right = right and isinstance(ids, list) and all(isinstance(name, str) for name in ids)
    if not right or type(step) is not int or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} does not say which step it is of: it is damaged")
    return about, weights


class Watch(Callback):
    """Notes what is not finite in a step: in the batch, the weights, what modules return, the gradients."""

    def __init__(self, module: nn.Module) -> None:
        self.ids: list[str] = []
        self.speech, self.weights, self.gradients = "", "", ""
        self.outputs: list[str] = []
        for name, part in module.named_modules():
            if name:
                part.register_forward_hook(lambda _, __, out, name=name: self._look(name, out))

    def _look(self, name: str, out: Any) -> None:
        tensors = out if isinstance(out, list | tuple) else [out]
        if any(isinstance(one, Tensor) and _count(one) for one in tensors):
            self.outputs.append(name)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.ids = list(batch.ids)
        bad = [name for name, wave in zip(batch.ids, batch.waveforms, strict=True) if _count(wave)]
        self.speech = listed(bad) if bad else ""
        self.weights = _first(dict(pl_module.named_parameters()))

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        grads = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        self.gradients = _first(grads)

    def lines(self) -> list[str]:
        """What was found, in the order in which it is computed."""
        said = [
            f"speech: {self.speech or 'finite'}",
            f"weights: {self.weights or 'finite'}",
            f"outputs: {f'{self.outputs[0]} is the first that is not finite' if self.outputs else 'finite'}",
            f"gradients: {self.gradients or 'finite'}",
        ]
        again = bool(self.gradients or self.outputs or self.weights or self.speech)
        return [*said, "reproduced" if again else "not reproduced: on this machine the step is finite"]


def _count(tensor: Tensor) -> int:
    """Numbers that are not finite."""
    return int((~tensor.detach().isfinite()).sum()) if tensor.is_floating_point() else 0


def _first(tensors: dict[str, Tensor]) -> str:
    """Which of some tensors are not finite, the first by name."""
    bad = [name for name, tensor in tensors.items() if _count(tensor)]
    return f"{len(bad)} of {len(tensors)} tensors are not finite, the first is {bad[0]}" if bad else ""
