"""The verbs that look into models, on a model with a head that evaluate trained."""

import json

import pytest

from distill.downstream.evaluate import evaluate
from tests.downstream.conftest import quick, student, task_data  # noqa: F401  # fixtures


@pytest.fixture(scope="module")
def recogniser(quick, student, tmp_path_factory):  # noqa: F811
    """The word for a student with a keyword head, and speech for it."""
    out = tmp_path_factory.mktemp("evaluations")
    config = quick("ks", conditions=["clean"])
    evaluate(student, config, out)
    return f"{student}@{out}/heads/ks-last-seed0", f"{config.data}/speech_commands/test.jsonl.gz"


def test_probe_waveform(distill, recogniser, noise_folder, tmp_path):
    model, speech = recogniser
    words = ["probe", "waveform", model, "--speech", speech, "--utterances", "5", "--out", tmp_path]
    perturb = [
        "--perturb",
        "speed=50,100",
        "--perturb",
        f"background:{noise_folder}=10,0",
        "--perturb",
        "pgd=20,40",
    ]
    code, out, err = distill(*words, *perturb, "--steps", "2")
    assert code == 0, err
    assert "| value | SNR (dB) | model | ERROR (%) | median ms | mean ms |" in out
    assert "adversarial noise (PGD) (dB SNR, 2 steps, made on each model), 5 utterances" in out
    drawn = ("speed", f"background_{noise_folder.name}", "pgd")
    assert all((tmp_path / f"{name}.{kind}").is_file() for name in drawn for kind in ("png", "pdf", "csv"))
    rows = json.loads((tmp_path / "analysis.json").read_text())["rows"]
    assert len(rows) == 7 and len(list(tmp_path.glob("predictions/*/*.tsv"))) == 7
    code, again, _ = distill(*words, *perturb, "--steps", "2")
    assert code == 0 and again == out  # times too: nothing was measured again


def test_probe_waveform_on_audio_made_for_one_model(distill, recogniser):
    model, speech = recogniser
    words = ["probe", "waveform", model, "--speech", speech, "--utterances", "2", "--perturb", "fgsm=30"]
    code, out, err = distill(*words, "--made-on", model)
    assert code == 0 and "FGSM) (dB SNR, made on " in out, err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--perturb", "wobble"], "--perturb wobble: there are white_noise"),
        (["--perturb", "white_noise=3"], "white_noise 3: expected 0 to 1"),
        (["--perturb", "background:fsd"], "add --noise fsd=SOURCE"),
        (["--level", "-1"], "level of white noise must be positive"),
        (["--utterances", "0"], "neither a positive number nor all"),
        (["--perturb", "pgd", "--steps", "0"], "pgd needs at least one step"),
    ],
)
def test_probe_waveform_says_what_is_wrong(distill, recogniser, words, said):
    model, speech = recogniser
    code, out, err = distill("probe", "waveform", model, "--speech", speech, *words)
    assert code and not out and said in err and "Traceback" not in err


def test_probe_waveform_needs_a_head(distill, recogniser):
    model, speech = recogniser
    code, _, err = distill("probe", "waveform", model.partition("@")[0], "--speech", speech)
    assert code == 1 and "has no head" in err
