"""Caches of a few utterances, and filling them."""

from pathlib import Path

import torch

from distill.data.sources import open_cuts
from distill.downstream.cache import FeatureCache
from distill.downstream.extraction import fill_all
from distill.downstream.features import Selection
from distill.encoder import Encoder

CPU = torch.device("cpu")


def make(folder: Path, speech: Path, encoder: Encoder, features="last", dtype="float32", name="a"):
    selection = Selection(features, encoder.config.layers)
    cuts = list(open_cuts(str(speech)))
    options = {"features": features, "checkpoint_hash": name, "dtype": dtype}
    return FeatureCache(folder, cuts, encoder, selection, **options), selection  # pyright: ignore


def fill(cache: FeatureCache, encoder: Encoder, selection: Selection) -> None:
    fill_all([cache], encoder, selection, devices=[CPU], workers=1)
