"""Speech of which everything is known: every phone is a tone, every word a pair of phones."""

from pathlib import Path

import numpy as np
import soundfile
from lhotse import MonoCut, SupervisionSegment
from lhotse.supervision import AlignmentItem

from distill.analysis.models import OurModel
from distill.data_prep.manifests import cut_from_file, write_cuts
from distill.hubert import HubertEncoder

PHONES = ("AA", "B", "CH", "D", "EH", "F", "G", "HH")
WORDS = ("AAB", "CHD", "EHF", "GHH", "BCH", "DEH")
PHONE_S = 0.12


def small_model(name: str = "m", seed: int = 0) -> OurModel:
    """Few dimensions, so that little speech is enough."""
    import torch

    torch.manual_seed(seed)
    conv = tuple((8, kernel, stride) for kernel, stride in ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2))
    changes = {"conv_layers": conv, "dim": 16, "heads": 2, "ffn_dim": 32, "position_groups": 4, "layers": 3}
    return OurModel(HubertEncoder.from_preset("mini", **changes), name)


def spoken(folder: Path, *, utterances: int = 40, words: int = 8, shuffled: bool = False) -> Path:
    """A manifest with alignments; shuffled: with those of other utterances."""
    rng = np.random.default_rng(0)
    cuts = []
    texts = [rng.choice(WORDS, words) for _ in range(utterances)]
    said = [texts[(i + 1) % utterances] for i in range(utterances)] if shuffled else texts
    for number, (text, written) in enumerate(zip(texts, said, strict=True)):
        name = f"u{number:02d}"
        phones = [phone for word in text for phone in split(word)]
        wave = np.concatenate([tone(phone, rng) for phone in phones])
        path = folder / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, 16_000)
        cut: MonoCut = cut_from_file(path, id=name)
        cut.supervisions = [
            SupervisionSegment(
                name,
                name,
                0,
                cut.duration,
                text=" ".join(written),
                alignment={
                    "word": [AlignmentItem(w, 2 * i * PHONE_S, 2 * PHONE_S) for i, w in enumerate(written)],
                    "phone": [
                        AlignmentItem(p, i * PHONE_S, PHONE_S)
                        for i, p in enumerate(p for w in written for p in split(w))
                    ],
                },
            )
        ]
        cuts.append(cut)
    write_cuts(cuts, folder / "speech.jsonl.gz")
    return folder / "speech.jsonl.gz"


def split(word: str) -> list[str]:
    first = next(phone for phone in PHONES if word.startswith(phone) and word[len(phone) :] in PHONES)
    return [first, word[len(first) :]]


def tone(phone: str, rng: np.random.Generator) -> np.ndarray:
    time_s = np.arange(round(PHONE_S * 16_000)) / 16_000
    hertz = 200 * 1.5 ** PHONES.index(phone)
    wave = 0.2 * np.sin(2 * np.pi * hertz * time_s + rng.uniform(0, 6))
    return wave + 0.01 * rng.standard_normal(len(time_s))
