"""What a preparation found and wrote, next to what the corpus's authors publish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.data_prep.corpus import Corpus, Split

HOURS_TOLERANCE = 0.05
"""Published hours are rounded, and LibriSpeech's for dev-other and test-other are 3-5 % off the audio."""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """One manifest, next to what its authors publish."""

    split: Split
    utterances: int
    """Cuts in the manifest."""
    files: int
    """Audio files they come from."""
    hours: float
    skipped: int
    """Files left out because they cannot be read."""

    @property
    def missing(self) -> int:
        """Published files that do not exist, readable or not."""
        return max(0, (self.split.files or 0) - self.files - self.skipped)

    @property
    def check(self) -> str:
        """What differs, "ok", or "-" where nothing is published."""
        problems = []
        if self.split.files is not None and self.files != self.split.files:
            difference = self.files - self.split.files
            problems.append(f"{abs(difference)} files {'more' if difference > 0 else 'fewer'}")
        if self.split.hours is not None:
            change = self.hours / self.split.hours - 1
            if abs(change) > HOURS_TOLERANCE:
                problems.append(f"{change:+.0%} hours")
        if problems:
            return f"differs: {', '.join(problems)}"
        return "-" if self.split.files is None and self.split.hours is None else "ok"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` found and wrote; as a string, the table that the command line prints."""

    corpus: Corpus
    root: Path
    out: Path
    results: tuple[SplitResult, ...]
    missing: tuple[str, ...]
    """Splits that are not below the root."""

    def __str__(self) -> str:
        head = ("split", "utterances", "files", "hours", "published", "check")
        rows = [head, *(self._row(result) for result in self.results)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        lines = [f"{self.corpus.title}: manifests in {self.out}", *(line.rstrip() for line in lines)]
        if self.missing:
            lines.append(f"not below {self.root}: {', '.join(self.missing)} ({self.corpus.source})")
        n_skipped = sum(result.skipped for result in self.results)
        if n_skipped:
            lines.append(f"{n_skipped} unreadable files left out, see {self.out / 'skipped.tsv'}")
        return "\n".join([*lines, f"licence: {self.corpus.licence}"])

    def _row(self, result: SplitResult) -> tuple[str, ...]:
        split = result.split
        published = [f"{split.files} files"] if split.files is not None else []
        published += [f"{split.hours:g} h"] if split.hours is not None else []
        return (
            split.name,
            str(result.utterances),
            str(result.files),
            f"{result.hours:.2f}",
            ", ".join(published) or "unknown",
            result.check,
        )
