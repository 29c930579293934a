"""What is said of missing sources."""

from pathlib import Path

import pytest

from distill.data_prep.advice import how_to_make


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("data/mini/speech_dev.jsonl.gz", "distill data prepare mini --out data/mini"),
        ("data/wham/tt.jsonl.gz", "distill data prepare wham --root FOLDER --out data/wham"),
        ("data/timit/none.jsonl.gz", "timit has no split none: name one of train, dev, test"),
        (
            "data/mine/dev.jsonl.gz",
            "name the folder of your manifests (data.root=..., evaluate: --data)",
        ),
        ("data/timit/dev.tsv", "name a manifest, TSV or folder of audio"),
        ("data", "name a manifest, TSV or folder of audio"),
    ],
)
def test_the_advice_for_a_missing_source(path, advice):
    assert how_to_make(Path(path)).startswith(advice)
