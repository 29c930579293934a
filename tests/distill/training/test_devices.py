"""What is computed where: the recipe's devices, or a GPU if there is one. No GPU is needed here."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from distill.adaptation import recipe_targets
from distill.adaptation.command import make_and_report
from distill.adaptation.targets_options import TargetsOptions
from distill.checkpoints import export, load_teacher
from distill.config import load
from distill.downstream.embeddings import embed_set, load_encoders
from distill.downstream.evaluate import own_devices
from distill.downstream.options import EvaluationConfig
from distill.training.devices import best_device, device_of, devices_of


@pytest.fixture
def gpus(monkeypatch):
    """As on a machine with eight."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def names(devices) -> list[str]:
    return [str(device) for device in devices]


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ("{devices: [3]}", ["cuda:3"]),
        ("{devices: '2,5'}", ["cuda:2", "cuda:5"]),
        ("{devices: 2}", ["cuda:0", "cuda:1"]),
        ("{devices: auto}", [f"cuda:{number}" for number in range(8)]),
        ("{accelerator: cpu, devices: 2}", ["cpu", "cpu"]),
    ],
)
def test_the_devices_of_a_recipe(gpus, trainer, expected):
    assert names(devices_of(load("s4", [f"trainer={trainer}"]))) == expected


def test_without_a_gpu():
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert names(devices_of(load("s4", ["trainer.accelerator=cpu"]))) == ["cpu"]


def test_an_evaluation_extracts_on_its_own_devices(gpus, monkeypatch):
    config = EvaluationConfig(task="ks", trainer={"devices": [3, 6]})
    assert names(own_devices(config)) == ["cuda:3", "cuda:6"]
    monkeypatch.setenv("SLURM_LOCALID", "1")  # of a shell, from which Lightning starts the processes
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert names(own_devices(config)) == ["cuda:3", "cuda:6"]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert names(own_devices(config)) == ["cuda:6"]
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert names(own_devices(config)) == ["cuda:3"]


class Asked(Exception):
    pass


@pytest.fixture
def asked(monkeypatch):
    """Devices and processes that targets are to be made with."""
    found = {}

    def make_targets(cuts, folder, clustering, **options):
        found.update(options, encoder=clustering.encoder)
        raise Asked

    monkeypatch.setattr(recipe_targets, "make_targets", make_targets)
    monkeypatch.setattr("distill.adaptation.command.make_targets", make_targets)
    return found


WORDS = ("trainer.devices=[3]", "targets.features=layer", "targets.layer=3", "teacher=random:mini")


def test_targets_of_a_run_are_made_on_its_devices(gpus, asked, tmp_path):
    data: Any = SimpleNamespace(train_cuts=[], dev_cuts=[])
    encoder = load_teacher("random:mini")
    for more, expected in (([], (["cuda:3"], 1)), (["trainer.devices=2"], (["cuda:0", "cuda:1"], 2))):
        recipe: Any = load("t1_prime", [*WORDS, *more])
        with pytest.raises(Asked):
            recipe_targets.targets_of(data, tmp_path, recipe, encoder, resume=False)
        assert (names(asked["devices"]), asked["jobs"]) == expected
    recipe: Any = load("t1_prime", ["targets.features=mfcc", "data.workers=5"])
    with pytest.raises(Asked):
        recipe_targets.targets_of(data, tmp_path, recipe, encoder, resume=False)
    assert asked["jobs"] == 5 and asked["encoder"] is None


def test_targets_of_the_command_are_made_on_the_devices_of_the_recipe(gpus, asked, mini_data, tmp_path):
    speech = f"data.train=[{mini_data}/speech_train.jsonl.gz]", f"data.dev=[{mini_data}/speech_dev.jsonl.gz]"
    job = TargetsOptions(
        source="t1_prime", out=tmp_path, overrides=(*WORDS[:3], *speech), teacher="random:mini"
    )
    with pytest.raises(Exception, match="has learned nothing"):
        make_and_report(job)
    export(load_teacher("random:mini"), "native", tmp_path / "teacher")
    job.teacher = str(tmp_path / "teacher")
    with pytest.raises(Asked):
        make_and_report(job)
    assert names(asked["devices"]) == ["cuda:3"] and asked["jobs"] == 1


class Elsewhere(nn.Module):
    """A model on another device, which notes where its input is and answers on the CPU."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))
        self.config = SimpleNamespace(layers=1)
        self.heard: set[str] = set()

    def forward(self, waveforms, lengths):
        self.heard.add(waveforms.device.type)
        states = [torch.ones(len(lengths), 2, 3)] * 2
        frames = torch.full((len(lengths),), 2)
        return SimpleNamespace(
            last_hidden_state=states[1], hidden_states=states, features=states, lengths=frames
        )


def test_speech_goes_to_where_the_model_is():
    model: Any = Elsewhere()
    assert device_of(model).type == "meta" and device_of(nn.ReLU()).type == "cpu"
    batch = [SimpleNamespace(id="a")], torch.zeros(1, 800), torch.tensor([800]), None
    dataset: Any = SimpleNamespace(batches=lambda: iter([batch]))
    _, vectors = embed_set({"m": model}, dataset)
    assert vectors["m"].shape == (1, 3) and model.heard == {"meta"}


def test_models_to_look_into_go_to_the_best_device(monkeypatch, tmp_path):
    export(load_teacher("random:mini"), "native", tmp_path)
    monkeypatch.setattr("distill.downstream.embeddings.best_device", lambda: torch.device("meta"))
    (model,) = load_encoders([str(tmp_path)]).values()
    assert device_of(model).type == "meta"
