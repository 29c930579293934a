"""What all models have in common."""

import pytest
import torch

from distill.analysis.layered import Activations, ordered
from distill.analysis.models import OurModel
from distill.errors import UsageError
from distill.hubert import HubertEncoder


def test_valid_frames_by_utterance():
    states = {"0": torch.arange(12.0).view(2, 3, 2)}
    found = Activations(states, {"0": torch.tensor([3, 1])}).valid("0")
    assert [len(rows) for rows in found] == [3, 1] and found[1].tolist() == [[6.0, 7.0]]


def test_layers_are_checked():
    model = OurModel(HubertEncoder.from_preset("mini", layers=2), "m")
    assert model.transformer == ("cnn", "0", "1", "2") and model.rows == slice(None)
    model.check(["conv1", "2"])
    with pytest.raises(UsageError, match="m has no layer '3'; it has conv1, conv2"):
        model.check(["1", "3"])


def test_layers_in_the_order_of_the_computation():
    names = ["10", "conv2", "0", "cnn", "2", "conv10", "2"]
    assert ordered(names) == ["conv2", "conv10", "cnn", "0", "2", "10"]
