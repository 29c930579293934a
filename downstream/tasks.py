"""The SUPERB tasks and their default settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task and its default settings."""

    title: str
    """Its name in words."""
    corpus: str
    """Folder of its manifests in the data folder."""
    train: tuple[str, ...]
    """Manifests of training speech; of ER all sessions, of which each fold tests on one."""
    dev: str | None
    """Manifest on which the best head is chosen; None: a part of the training speech."""
    test: str | None
    """Manifest of the test speech; None: a session of `train`."""
    kind: Literal["classes", "characters", "phones"]
    """What is predicted."""
    label: str = "label"
    """Custom field with the class; several classes are joined by `|`."""
    conditions: tuple[str, ...] = ("clean", "2-dist", "fsd", "dns")
    """Conditions to test under."""
    batch_size: int = 32
    """Utterances of the global batch."""
    lr: float = 1e-4
    """Learning rate of Adam, constant."""
    steps: int = 200_000
    """Updates of the head."""
    every_n_steps: int = 2_000
    """Updates between two validations."""
    folds: int = 0
    """Folds of a cross-validation; 0: none."""
    balanced: bool = False
    """Draw every class equally often in training, and weight it equally in validation."""
    crop_s: float | None = None
    """Longer training utterances are cropped, at a new random position in every epoch, seconds."""
    buckets: int = 1
    """Batches that are formed together, of utterances of similar duration; 1: no sorting."""
    gain_db: float = 0.0
    """Change of the level of all speech, in dB."""
    dev_seed: int | None = None
    """Without a dev set: seed of torch's `random_split` of the training speech; None: the evaluation's."""

    @property
    def metric(self) -> str:
        """Name of its score."""
        return {"classes": "accuracy", "characters": "wer", "phones": "per"}[self.kind]


# Batch sizes, learning rates and steps of KS, IC, ER and ASR: Huang et al. 2022, section 4.3. The rest:
# SUPERB (Yang et al. 2021) as s3prl has it; SLURP as IC, after Pasad et al. 2023.
TASKS: dict[str, Task] = {
    "ks": Task(
        title="keyword spotting",
        corpus="speech_commands",
        train=("train",),
        dev="dev",
        test="test",
        kind="classes",
        lr=1e-3,
        every_n_steps=5_000,
        balanced=True,
        crop_s=1.0,
    ),
    "ic": Task(
        title="intent classification",
        corpus="fluent_commands",
        train=("train",),
        dev="valid",
        test="test",
        kind="classes",
        every_n_steps=5_000,
    ),
    "er": Task(
        title="emotion recognition",
        corpus="iemocap",
        train=tuple(f"session{number}" for number in range(1, 6)),
        dev=None,
        test=None,
        kind="classes",
        batch_size=4,
        steps=30_000,
        every_n_steps=500,
        folds=5,
    ),
    "asr": Task(
        title="speech recognition",
        corpus="librispeech",
        train=("train-clean-100",),
        dev="dev-clean",
        test="test-clean",
        kind="characters",
        conditions=("clean", "2-dist", "fsd", "dns", "test-other", "chime3"),
        buckets=30,
    ),
    "pr": Task(
        title="phoneme recognition",
        corpus="librispeech",
        train=("train-clean-100",),
        dev="dev-clean",
        test="test-clean",
        kind="phones",
        lr=1e-2,
        steps=100_000,
        every_n_steps=1_000,
        buckets=30,
    ),
    **{
        f"slurp_{label}": Task(
            title=f"SLURP {label}",
            corpus="slurp",
            train=("train",),
            dev="devel",
            test="test",
            kind="classes",
            label=label,
            every_n_steps=5_000,
        )
        for label in ("action", "scenario")
    },
}

# Values where the paper gives none, as differences from `TASKS`. In s3prl 0.4.18, ER adds
# the gradients of 8 batches of 4, ASR halves batches of 32 with an utterance of over 2000 samples (all have
# one), KS reads with sox `gain -3`.
PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {},
    "s3prl": {
        "ks": {"gain_db": -3.0},
        "er": {"batch_size": 32, "every_n_steps": 1_000, "dev_seed": 0},
        "asr": {"batch_size": 16},
    },
}


def task_of(name: str, protocol: str) -> Task:
    """A task with the values of a protocol.

    Args:
        name: a key of `TASKS`.
        protocol: a key of `PROTOCOLS`; an unknown one (of a later version) changes nothing.
    """
    return replace(TASKS[name], **PROTOCOLS.get(protocol, {}).get(name, {}))


# Recorded test sets, which are not distorted: condition -> manifest in the data folder. CHiME-3's
# channel 0 is probably that of Huang et al. 2022; SPIRAL's authors tested on 5, 1 and 2, too.
RECORDED = {
    "test-other": "librispeech/test-other",
    "chime3": "chime3/et05_real_ch0",
    **{f"chime3-ch{channel}": f"chime3/et05_real_ch{channel}" for channel in (5, 1, 2)},
}

# Manifests of the noise for testing, in the data folder, unless `noises` names others.
NOISES = {"musan": "musan/all", "wham": "wham/tt", "fsd": "fsd50k/test", "dns": "dns/noise", "rir": "dns/rir"}
