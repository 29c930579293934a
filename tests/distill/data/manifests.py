"""Compressed manifests."""

import gzip


def packed(path):
    with gzip.open(path.with_suffix(".jsonl.gz"), "wb") as file:
        file.write(path.read_bytes())
    return path.with_suffix(".jsonl.gz")
