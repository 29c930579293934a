"""The tables of word error rates in the paper, Huang et al. 2022 (SPIRAL), and which run a row of them is.

Table 5 gives CHiME-3's channels as here; the paper's text (section 5.2) swaps channels 1 and 5.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

Ablation = tuple[tuple[str, str], ...]
"""What is changed in pre-training, as (name, value), sorted."""


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """What a row of the paper is, and a run of ours, in the same terms."""

    size: str
    """BASE or LARGE."""
    unlabelled: str
    """Speech of the pre-training: LS-960 or LL-60k."""
    finetuning: str = "train-clean-100"
    """Speech of the fine-tuning: train-clean-100 or train-960."""
    frozen: bool = False
    """Whether the encoder stays as it was pre-trained."""
    units: str = "subword"
    """subword or char."""
    lm: str = ""
    """Language model in decoding: "4-gram", "4-gram of subwords"; "": none."""
    pretrain_mct: bool = False
    """Whether pre-training was multi-condition."""
    finetune_mct: bool = False
    """Whether fine-tuning was multi-condition."""
    ablation: Ablation = ()
    """What pre-training did in another way than the paper's."""

    def __str__(self) -> str:
        parts = [f"{self.size} of {self.unlabelled}", *["frozen"] * self.frozen]
        parts += [f"fine-tuned on {self.finetuning}", self.units, self.lm or "no LM"]
        parts += ["pre-training MCT"] * self.pretrain_mct + ["fine-tuning MCT"] * self.finetune_mct
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self.ablation)])


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper."""

    number: int
    """In the paper."""
    title: str
    """What it is about."""
    file: str
    """Of its numbers."""
    about: tuple[str, ...]
    """Columns that say what a row is."""
    columns: Mapping[str, tuple[str, ...]]
    """By column of numbers, the names of the test set."""
    key: Callable[[Mapping[str, str]], RunKey | None]
    """Which run of ours a row is; None: none can be."""


LIBRISPEECH = {
    name: (name.replace("_", "-"),) for name in ("dev_clean", "dev_other", "test_clean", "test_other")
}
_TESTED = {"librispeech_clean": ("test-clean",), "librispeech_other": ("test-other",)}
_CHIME3 = {
    "chime3_ch0": ("chime3", "chime3-ch0"),
    **{f"chime3_ch{channel}": (f"chime3-ch{channel}",) for channel in (5, 1, 2)},
}
_NS = {f"ns_librispeech_{part}": (f"ns-{part}",) for part in ("clean", "other")}
_PRETRAINED_ON = {"BASE": "LS-960", "LARGE": "LL-60k"}


def _size(row: Mapping[str, str]) -> str | None:
    """BASE or LARGE of a SPIRAL."""
    words = row["model"].split()
    return words[1] if words[0] == "SPIRAL" else None


def _by_lm(row: Mapping[str, str], finetuning: str) -> RunKey | None:
    """Of Tables 3 and 4. With a language model the paper decodes characters, without one subwords."""
    size = _size(row)
    if size is None or row["lm"] not in ("", "4-gram"):  # Transformer models are not built here
        return None
    return RunKey(
        size=size,
        unlabelled=row["unlabelled"],
        finetuning=finetuning,
        frozen=row["model"].endswith("frozen"),
        units="char" if row["lm"] else "subword",
        lm=row["lm"],
    )


def _by_mct(row: Mapping[str, str]) -> RunKey | None:
    """Of Tables 5 and 7."""
    if (size := _size(row)) is None:
        return None
    return RunKey(
        size=size,
        unlabelled=_PRETRAINED_ON[size],
        pretrain_mct=row["pretrain_mct"] == "yes",
        finetune_mct=row["finetune_mct"] == "yes",
    )


def _by_units(row: Mapping[str, str]) -> RunKey | None:
    """Of Table 6, whose language models are Transformers."""
    if (size := _size(row)) is None or row["lm_units"]:
        return None
    return RunKey(size=size, unlabelled=row["unlabelled"], finetuning=row["finetuning"], units=row["units"])


def _by_teacher(row: Mapping[str, str]) -> RunKey:
    """Of Table 8. The paper's p is a probability to begin; ours is the share, p times the length."""
    found = [("teacher noise", "no")] if row["teacher_computation_noise"] == "no" else []
    parts = []
    for name in ("time", "frequency"):
        if length := row[f"teacher_{name}_mask_length"]:
            parts += [f"{name} {float(row[f'teacher_{name}_mask_p']) * int(length):g}, {length}"]
    found += [("teacher masking", "; ".join(parts))] if parts else []
    return RunKey(size="BASE", unlabelled="LS-960", ablation=tuple(sorted(found)))


def _by_heads(row: Mapping[str, str]) -> RunKey:
    """Of Table 9."""
    found = []
    if row["projection_head"] == "convolutional":
        found.append(("projection", "convolution"))
    if row["predictor"] == "no":
        found.append(("predictor", "none"))
    elif row["predictor_norm"] != "batch":
        found.append(("predictor", row["predictor_norm"]))
    return RunKey(size="BASE", unlabelled="LS-960", ablation=tuple(sorted(found)))


TABLES = (
    PaperTable(
        number=3,
        title="fine-tuned on train-clean-100",
        file="table3_wer_train_clean_100.csv",
        about=("model", "unlabelled", "lm"),
        columns=LIBRISPEECH,
        key=lambda row: _by_lm(row, "train-clean-100"),
    ),
    PaperTable(
        number=4,
        title="fine-tuned on LibriSpeech's 960 h",
        file="table4_wer_ls960.csv",
        about=("model", "unlabelled", "lm"),
        columns=LIBRISPEECH,
        key=lambda row: _by_lm(row, "train-960"),
    ),
    PaperTable(
        number=5,
        title="real noise, CHiME-3, fine-tuned on train-clean-100",
        file="table5_wer_chime3.csv",
        about=("model", "pretrain_mct", "finetune_mct"),
        columns=_TESTED | _CHIME3,
        key=_by_mct,
    ),
    PaperTable(
        number=6,
        title="units and language models",
        file="table6_wer_units_and_lm.csv",
        about=("model", "finetuning", "unlabelled", "units", "lm_units"),
        columns=LIBRISPEECH,
        key=_by_units,
    ),
    PaperTable(
        number=7,
        title="noisy LibriSpeech, fine-tuned on train-clean-100",
        file="table7_wer_ns_librispeech.csv",
        about=("model", "pretrain_mct", "finetune_mct"),
        columns=_TESTED | _NS,
        key=_by_mct,
    ),
    PaperTable(
        number=8,
        title="noise and masks of the teacher",
        file="table8_ablation_teacher.csv",
        about=(
            "teacher_time_mask_p",
            "teacher_time_mask_length",
            "teacher_frequency_mask_p",
            "teacher_frequency_mask_length",
            "teacher_computation_noise",
        ),
        columns={"dev_other": ("dev-other",)},
        key=_by_teacher,
    ),
    PaperTable(
        number=9,
        title="predictor and projection head",
        file="table9_ablation_heads.csv",
        about=("as_in_paper", "predictor", "predictor_norm", "projection_head"),
        columns={"dev_other": ("dev-other",)},
        key=_by_heads,
    ),
)
"""Those with word error rates."""


def rows_of(table: PaperTable) -> tuple[Mapping[str, str], ...]:
    """The paper's rows, by column as printed."""
    folder = resources.files("distill.recipes") / "paper" / "spiral"
    return tuple(csv.DictReader(io.StringIO((folder / table.file).read_text(encoding="utf-8"))))
