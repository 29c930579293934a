"""`prepared.json`: what has been prepared in a folder, so that an interrupted preparation continues."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from distill.atomic import read_json, write_json, write_text
from distill.data.files import printable
from distill.data_prep.written import Written
from distill.errors import DataError

logger = logging.getLogger(__name__)


class Ledger:
    """What has been prepared in an output folder.

    Args:
        out: the folder, which may not exist yet.
        corpus: its name.

    Raises:
        DataError: the folder holds the manifests of another corpus.
    """

    def __init__(self, out: Path, corpus: str):
        self.out = out
        self.path = out / "prepared.json"
        self.header_cache = out / ".headers.jsonl"
        self.written = Written(out)
        self.content: dict[str, Any] = {"corpus": corpus, "splits": {}}
        if self.path.is_file():
            try:
                found = read_json(self.path)
                if not _is_sound(found):
                    raise ValueError("it says other things than it should")
            except ValueError as error:
                why = str(error).removeprefix(f"{self.path} ")
                logger.warning("%s is damaged (%s): everything is prepared again", self.path, why)
                found = self.content
            owner = found.get("corpus", "mini")
            if owner != corpus:
                raise DataError(f"{out} holds the manifests of {owner}; choose another --out for {corpus}")
            self.content = found

    def manifest(self, split: str) -> Path:
        """Where the manifest of a split is, or will be."""
        return self.out / f"{split}.jsonl.gz"

    def done(self, split: str, digest: str, state: str) -> dict[str, Any] | None:
        """What was recorded of a split, unless it has to be prepared again; warns if its audio has changed.

        Args:
            split: its name.
            digest: of what lists and folders say of it now.
            state: of its audio files now.
        """
        entry = self.content["splits"].get(split)
        if entry is None or entry["digest"] != digest or entry["skipped"]:
            return None
        if not self.manifest(split).is_file():
            return None
        if (known := entry.get("state")) == state:
            return entry
        why = "audio files have changed since it was prepared (size or time of change)"
        if known is None:
            why = "it was prepared by a version that did not note the state of the audio files"
        logger.warning("%s: %s: it is prepared again", split, why)
        return None

    def record(self, split: str, entry: dict[str, Any]) -> None:
        """Note that a split is done, and save.

        Its list of shards is kept if they were made of the same files, with the same ones left out.
        """
        old = self.content["splits"].get(split, {})
        noted = ("state",) if "state" in old else ("utterances", "files", "hours")
        same = all(old.get(key) == entry[key] for key in ("digest", "skipped", *noted))
        shards = old.get("shards", {})
        self.content["splits"][split] = entry | {"shards": shards if same else dict.fromkeys(shards, [])}
        self.save()
        self.written.note(self.manifest(split).name)

    def claim(self, split: str) -> None:
        """Make sure that the manifest of a split replaces none of somebody else.

        Raises:
            DataError: as `Written.claim`.
        """
        name = self.manifest(split).name
        earlier = [name] if split in self.content["splits"] and not self.written.has(name) else []
        self.written.claim([name], known=earlier)

    def claim_shards(self, split: str) -> None:
        """As `claim`, for the manifest of a split's shards."""
        name = f"{split}.shards.jsonl.gz"
        known = any(self.content["splits"][split]["shards"].values()) and not self.written.has(name)
        self.written.claim([name], known=[name] if known else ())

    def has_shards(self, split: str, folder: str) -> bool:
        """Whether shards of a split were written to a folder."""
        return folder in self.content["splits"][split]["shards"]

    def shards(self, split: str, folder: str) -> list[int]:
        """Numbers of the shards that are complete in a folder; append to it and save."""
        return self.content["splits"][split]["shards"].setdefault(folder, [])

    def save(self) -> None:
        """Write `prepared.json`."""
        write_json(self.path, self.content, indent=1)

    def write_skipped(self) -> None:
        """`skipped.tsv`, over all splits prepared so far."""
        earlier = ["skipped.tsv"] if self.content["splits"] and not self.written.has("skipped.tsv") else []
        self.written.claim(["skipped.tsv"], known=earlier)
        lines = ["path\treason\n"]
        for entry in self.content["splits"].values():
            lines += [f"{path}\t{' '.join(reason.split())}\n" for path, reason in entry["skipped"].items()]
        write_text(self.out / "skipped.tsv", printable("".join(lines)))
        self.written.note("skipped.tsv")


def _is_sound(found: dict[str, Any]) -> bool:
    """Whether what was read has the form that it was written in."""
    splits = found.get("splits", {} if "sets" in found else None)  # the mini corpora have sets
    known = isinstance(found.get("corpus", ""), str) and isinstance(splits, dict)
    return known and all(isinstance(entry, dict) and _is_entry(entry) for entry in splits.values())


def _is_entry(entry: dict[str, Any]) -> bool:
    kinds = {"digest": str, "utterances": int, "files": int, "hours": float | int, "skipped": dict}
    if not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
        return False
    shards = entry.get("shards")
    return (
        all(isinstance(reason, str) for reason in entry["skipped"].values())
        and isinstance(shards, dict)
        and all(isinstance(done, list) and all(type(n) is int for n in done) for done in shards.values())
    )
