"""Every option of an evaluation on a SUPERB task."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill.config import from_words, to_words
from distill.distortions import VARIANTS
from distill.distortions.options import WITHOUT_VARIANTS
from distill.downstream.head_run import HeadRecipe
from distill.downstream.paper import paper_row
from distill.downstream.tasks import PROTOCOLS, RECORDED, TASKS, Task, task_of
from distill.errors import UsageError
from distill.hashing import file_identity
from distill.optim import OptimConfig
from distill.options import DataConfig, LoggingConfig, ValidationConfig

_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
"""Lightning's long names of precisions by their short ones."""

_FEATURES = re.compile(r"last|weighted_sum|layer:\d+")


NAMED_OPTIONS = {
    "data": "--data",
    "conditions": "--condition",
    "features": "--features",
    "seed": "--seed",
    "noises": "--noise",
}
"""Fields of `EvaluationConfig` that have options of their own on the command line, besides key=value."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """How to evaluate a model on one task. What is None is the task's own (`TASKS`)."""

    task: str
    """ks, ic, er, asr, pr, slurp_action or slurp_scenario."""
    protocol: str = "paper"
    """Whose values to take where the paper gives none: "paper" (ours) or "s3prl"; see `PROTOCOLS`."""
    variant: str = "paper"
    """How test speech is distorted: "paper" or "authors" (as the authors' released code)."""
    row: str | None = None
    """The model's row in the paper's tables: S1, T1, s4_prime (S4'); None: by its recipe."""
    data: str = "data"
    """Folder of the prepared corpora: DATA/speech_commands/train.jsonl.gz and so on."""
    sources: dict[str, str] = field(default_factory=dict)
    """Other speech for train, dev, test, or a manifest by its name (session1, test-other, chime3, ...)."""
    label: str | None = None
    """Custom field or TSV column with the class."""
    noises: dict[str, list[str]] = field(default_factory=dict)
    """By corpus (musan, wham, fsd, dns, rir): sources of noise; those of the data folder by default. Also
    speech, other utterances as noise, which has no default."""
    conditions: list[str] | None = None
    """clean, 2-dist, fsd, dns, ns, one distortion alone, each also at one SNR in dB (fsd@0), and for asr
    test-other, chime3 (channel 0 of the real evaluation set), chime3-ch5, chime3-ch1 and chime3-ch2."""
    features: str = "last"
    """"last" hidden state, "weighted_sum" of all with learned weights, or "layer:K" (0: the input)."""
    finetune: bool = False
    """Train the model together with the head."""
    steps: int | None = None
    """Updates of the head."""
    batch_size: int | None = None
    """Utterances of the global batch."""
    lr: float | None = None
    """Learning rate."""
    every_n_steps: int | None = None
    """Updates between two validations."""
    crop_s: float | None = None
    """Longer training utterances are cropped at a random position, seconds; 0: never."""
    width: int | None = None
    """Units of the projection, and of each direction of ASR's LSTMs; default: 256, and 1024 for ASR."""
    seed: int = 0
    """Of the head, the order of the data, and the distortions of the test sets."""
    folds: list[int] | None = None
    """ER: sessions to test on, each with a head of its own; default: all five."""
    lm: str | None = None
    """ASR: n-gram model (ARPA, .arpa.gz or kenlm binary) to decode with, besides decoding without."""
    lexicon: Any = None
    """ASR with a language model: lines `WORD W O R D |`; default: all words of an ARPA file. PR: lines
    `WORD PHONE PHONE ...`, for speech without phones in its manifest. One file, or several ([A,B] or A,B): a
    word is taken from the first that has it."""
    cache: str = "off"
    """Extract the features of training and dev speech once: "off", "float16" or "float32"."""
    cache_folder: str | None = None
    """Folder of the features; default: `cache` in the output folder."""
    max_bad_fraction: float = 0.01
    """Share of the training utterances that may be unreadable."""
    workers: int = 4
    """Data loading processes per training process."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Loggers of the head's training."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Passed on to Lightning's Trainer: devices, num_nodes, precision, strategy, ..."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            close = difflib.get_close_matches(self.task, TASKS, n=1)
            hint = f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(TASKS)}"
            raise UsageError(f"unknown task {self.task!r}{hint}")
        if self.protocol not in PROTOCOLS:
            raise UsageError(f"protocol must be {' or '.join(PROTOCOLS)}, not {self.protocol!r}")
        if self.variant not in VARIANTS:
            raise UsageError(f"variant must be {' or '.join(VARIANTS)}, not {self.variant!r}")
        if self.row is not None:
            self.row = paper_row(self.row)
        if self.cache in ("False", "false"):  # YAML reads a bare `off` as a boolean
            self.cache = "off"
        self.sources = self._by_manifest(self.sources)
        self._check()
        self.recipe()  # checks the fields that it shares with recipes

    @classmethod
    def from_words(
        cls, task: str, words: Sequence[str] = (), given: Mapping[str, Any] | None = None
    ) -> EvaluationConfig:
        """The options that a command line asks for.

        Args:
            task: a key of `TASKS`.
            words: "key.path=value" each; they win over `given`.
            given: by field; what is None is not given.

        Raises:
            UsageError: for an unknown task or key, a wrong type or value.
        """
        stated = {key: value for key, value in (given or {}).items() if value is not None}
        return from_words(cls, {"task": task} | stated, words)

    def to_words(self) -> list[str]:
        """What follows `distill evaluate` for these options: the task, then key=value (`from_words`)."""
        _, *others = to_words(self)
        return [self.task, *others]

    def _by_manifest(self, sources: dict[str, str]) -> dict[str, str]:
        """The sources by manifest: IC's dev is "valid", ASR's train is "train-clean-100"."""
        task = self.defaults
        roles = {"dev": task.dev, "test": task.test}
        if len(task.train) == 1:
            roles["train"] = task.train[0]
        own = {role: name for role, name in roles.items() if name}
        recorded = RECORDED if task.kind == "characters" else ()
        known = [*own, *dict.fromkeys([*task.train, *own.values(), *sorted(recorded)])]
        for name in sources:
            if name not in known:
                raise UsageError(f"sources.{name}: {self.task} has {', '.join(dict.fromkeys(known))}")
        return {own.get(name, name): source for name, source in sources.items()}

    def _check(self) -> None:
        task = self.defaults
        if not _FEATURES.fullmatch(self.features):
            raise UsageError(f"features must be last, weighted_sum or layer:K, not {self.features!r}")
        if self.cache not in ("off", "float16", "float32"):
            raise UsageError(f"cache must be off, float16 or float32, not {self.cache!r}")
        if self.finetune and self.cache != "off":
            raise UsageError("finetune changes the features: set cache=off")
        for fold in self.folds or []:
            if not 1 <= fold <= task.folds:
                exist = f"there are 1 to {task.folds}" if task.folds else f"{self.task} has none"
                raise UsageError(f"fold {fold} does not exist: {exist}")
        if self.lm is not None and task.kind != "characters":
            raise UsageError(f"lm: {self.task} is not decoded with a language model, leave it out")
        if not isinstance(self.lexicon, str | list | None):
            raise UsageError(f"lexicon must be one file or several, [a.txt,b.txt], not {self.lexicon!r}")
        if self.lexicon is not None and self.lm is None and task.kind != "phones":
            helped = "set lm=FILE too" if task.kind == "characters" else "leave it out"
            raise UsageError(f"lexicon: {self.task} without a language model needs none, {helped}")
        for name in ("steps", "batch_size", "every_n_steps", "width"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.crop_s is not None and not (self.crop_s == 0 or self.crop_s >= 0.1):
            raise UsageError(f"crop_s must be 0 (never crop) or at least 0.1 seconds, not {self.crop_s}")
        if self.workers < 0:
            raise UsageError(f"workers must be at least 0, not {self.workers}")
        only_asr = sorted(set(self.conditions or ()) & RECORDED.keys())
        if only_asr and task.kind != "characters":
            raise UsageError(f"condition {only_asr[0]} is for asr only, not for {self.task}")

    @property
    def defaults(self) -> Task:
        """The task with the values of the protocol."""
        return task_of(self.task, self.protocol)

    @property
    def effective_batch_size(self) -> int:
        """Utterances of the global batch."""
        return self.batch_size or self.defaults.batch_size

    @property
    def effective_lr(self) -> float:
        """Learning rate."""
        return self.defaults.lr if self.lr is None else float(self.lr)

    @property
    def effective_crop_s(self) -> float | None:
        """Longest training utterance, seconds; None: no limit."""
        return (self.defaults.crop_s if self.crop_s is None else self.crop_s) or None

    @property
    def effective_folds(self) -> list[int | None]:
        """A head is trained for each of these; [None] for tasks without folds."""
        return list(self.folds or range(1, self.defaults.folds + 1)) or [None]

    @property
    def effective_conditions(self) -> list[str]:
        """Conditions to test under."""
        return list(self.conditions or self.defaults.conditions)

    @property
    def lexicons(self) -> list[str]:
        """The files of `lexicon`, in order."""
        given = self.lexicon or []
        return [str(name) for name in (given.split(",") if isinstance(given, str) else given) if name]

    @property
    def head_input(self) -> str:
        """The head's input: `features`, after "finetune:" if the model is trained too."""
        return f"finetune:{self.features}" if self.finetune else self.features

    def head_name(self, fold: int | None) -> str:
        """Name of a head's folder."""
        parts = [
            self.task,
            f"fold{fold}" if fold else "",
            self.head_input.replace(":", "-"),
            f"seed{self.seed}",
        ]
        parts += [self.protocol] if self.protocol != "paper" else []
        parts += [f"lr{self.effective_lr!r}"] if self.effective_lr != self.defaults.lr else []
        return "-".join(part for part in parts if part)

    def variant_of(self, condition: str) -> str:
        """How the speech of a condition is distorted; clean and recorded speech and ns have no variants."""
        name = condition.partition("@")[0]
        return "paper" if name in WITHOUT_VARIANTS or name in RECORDED else self.variant

    def result_name(self, condition: str, fold: int | None, *, lm: bool) -> str:
        """Name of a result's file."""
        variant = "" if (name := self.variant_of(condition)) == "paper" else f"-{name}"
        return f"{self.head_name(fold)}-{condition}{variant}{'-lm' if lm else ''}.json"

    @property
    def head_settings(self) -> dict[str, Any]:
        """What a head depends on besides task, features, seed, steps and data."""
        recipe, precision = self.recipe(), str(self.trainer.get("precision") or "32")
        return {
            "protocol": self.protocol,
            "batch_size": self.effective_batch_size,
            "lr": recipe.optim.lr,
            "every_n_steps": recipe.validation.every_n_steps,
            "width": self.width,
            "crop_s": self.effective_crop_s,
            "precision": _PRECISIONS.get(precision, precision),
        }

    def settings(self, *, lm: bool = False) -> dict[str, Any]:
        """What a score depends on besides task, features, seed, steps and test data; kept with it as JSON.

        Args:
            lm: whether the score is of decoding with the language model.

        Raises:
            DataError: for a language model or lexicon that is missing.
        """
        found = self.head_settings | {
            "sources": dict(self.sources),
            "label": self.label,
            "noises": {name: list(sources) for name, sources in self.noises.items()},
        }
        if lm:
            assert self.lm is not None
            found["lm"] = file_identity(self.lm)
        if lm or self.defaults.kind == "phones":
            found["lexicons"] = [file_identity(file) for file in self.lexicons]
        return found

    def recipe(self, name: str = "") -> HeadRecipe:
        """The training of a head as a recipe, which the Trainer is made from."""
        task = self.defaults
        try:
            optim = OptimConfig(
                lr=self.effective_lr,
                max_steps=self.steps or task.steps,
                clip_norm=1.0,  # as s3prl's runner
                warmup=0.0,
            )
            logging = replace(self.logging, audio_every_n_steps=0)
            return HeadRecipe(
                name=name or self.task,
                optim=optim,
                validation=ValidationConfig(every_n_steps=self.every_n_steps or task.every_n_steps),
                data=DataConfig(max_bad_fraction=self.max_bad_fraction),
                logging=logging,
                trainer=self.trainer,
                seed=self.seed,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
