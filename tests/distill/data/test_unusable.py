"""How utterances that cannot be used are named."""

import pytest

from distill.data.datamodule import NothingUsable
from distill.data.sources import open_cuts
from distill.data.unusable import blame
from distill.errors import DataError


def test_a_bad_line_is_named_once(manifest):
    name, why = "line 5 of cuts.jsonl", "/data/cuts.jsonl, line 5: not valid JSON"
    assert blame(name, why) == blame(name, why, quoted=True) == why
    assert blame(f"noise {name}", why) == why
    assert str(NothingUsable([(name, why)])).endswith(f"the last: {why}")
    assert str(NothingUsable([("missing", "gone")])).endswith("the last: 'missing': gone")
    manifest.write_text("broken\n")
    with pytest.raises(DataError, match=r"not a lhotse cut manifest \(line 1: not valid JSON\)$"):
        open_cuts(str(manifest))
