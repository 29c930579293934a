"""What our errors repeat of other libraries': the reason, never the advice to switch a protection off."""

import json
import logging

import numpy as np
import pytest

from distill.adaptation.targets import Targets
from distill.data.audio import reason
from distill.errors import (
    DataError,
    UserError,
    differing_keys,
    first_line,
    listed,
    refuse_other_settings,
)
from distill.training.loggers import SafeLogger
from distill.training.run_folder import RunFolder

ADVICE = "Certificate is wrong. To ignore this, set verify=False.\nMore of it"


class Unreachable:
    """A logger behind a broken certificate."""

    experiment = None

    def log_metrics(self, *_, **__):
        raise RuntimeError(f"\x1b[31m{ADVICE}\x1b[0m")


def test_damaged_targets_do_not_advise_to_run_what_is_in_them(tmp_path):
    about = {"features": "mfcc", "seed": 0}
    (tmp_path / "targets.json").write_text(json.dumps(about))
    np.save(tmp_path / "codebook.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged k-means targets") as error:
        Targets.load(tmp_path)
    assert "allow_pickle" not in str(error.value) and "\n" not in str(error.value)


def test_loggers_and_readers_give_the_reason_alone(caplog):
    with caplog.at_level(logging.WARNING):
        SafeLogger(Unreachable()).log_metrics({})  # pyright: ignore
    assert "Certificate is wrong." in caplog.text
    assert "verify" not in caplog.text and "\x1b" not in caplog.text
    assert reason(RuntimeError(ADVICE)) == first_line(RuntimeError(ADVICE)) == "Certificate is wrong."


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"steps": null}'])
def test_a_damaged_note_of_the_end_is_none(tmp_path, text):
    (tmp_path / "finished.json").write_text(text)
    assert RunFolder(tmp_path).steps_done == 0


def test_a_list_shows_the_first_names_in_printable_characters():
    assert listed([]) == "nothing"
    assert listed(["é", "b\x1b", 3]) == r"é, b\x1b, 3"
    assert listed("abcde", limit=2) == "a, b and 3 more"


def test_what_was_made_with_other_settings_is_refused(tmp_path):
    found = {"seed": 0, "lr": 0.1}
    assert differing_keys(found, {"seed": 0, "steps": 3}) == []
    assert differing_keys(found, {"seed": 1, "steps": 3}, unstated_ok=False) == ["seed", "steps"]
    refuse_other_settings(tmp_path, [])
    with pytest.raises(UserError, match=r"made with other settings \(seed; lr\): choose another --out"):
        refuse_other_settings(tmp_path, ["seed", "lr"])
    with pytest.raises(DataError, match="delete it"):
        refuse_other_settings(tmp_path, ["seed"], advice="delete it", error=DataError)
