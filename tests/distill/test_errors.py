"""What our errors repeat of other libraries': the reason, never the advice to switch a protection off."""

import json
import logging

import numpy as np
import pytest

from distill.adaptation.targets import Targets
from distill.data.audio import reason
from distill.errors import DataError, first_line
from distill.training.loggers import SafeLogger
from distill.training.run_folder import steps_done

ADVICE = "Certificate is wrong. To ignore this, set verify=False.\nMore of it"


class Unreachable:
    """A logger behind a broken certificate."""

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
    assert steps_done(tmp_path) == 0
