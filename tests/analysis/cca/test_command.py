"""`distill cca` and `distill layers` as commands: tables, figures, advice, comparison with tasks."""

import json

import pytest

from distill.analysis.models import OurModel
from distill.checkpoints import export
from distill.cli import main
from tests.analysis.cca.tones import small_model, spoken
from tests.downstream.made_results import write


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return str(spoken(tmp_path_factory.mktemp("tones")))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[str, OurModel]:
    made = small_model()
    folder = tmp_path_factory.mktemp("model") / "t1"
    export(made.encoder, "native", folder)
    return str(folder), made


@pytest.fixture(scope="module")
def scores(tmp_path_factory, model):
    """Heads on the single layers that go with nothing, and all of them together."""
    identity = {"checkpoint_hash": model[1].identity, "task": "ic"}
    heads = [identity | {"features": f"layer:{layer}", "value": 60.0 + 10 * layer} for layer in range(4)]
    return str(
        write(
            tmp_path_factory.mktemp("scores"), *heads, identity | {"features": "weighted_sum", "value": 85.0}
        )
    )


def test_cca(speech, model, scores, tmp_path, capsys):
    words = [
        "cca",
        model[0],
        "--speech",
        speech,
        "--view",
        "phone",
        "--view",
        "mel",
        "--phones",
        "--samples",
        "1",
    ]
    assert main([*words, "--random", "--scores", scores, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "| phone | t1 | t1 (random weights) |" in printed and "| mel | t1 |" in printed
    assert (
        "| Spearman's rho |" in printed and "| t1 | ic |" in printed and "90.0 (layer 3) | 85.0 |" in printed
    )
    pictures = {path.stem for path in (tmp_path / "a").glob("*.png")}
    assert pictures == {"phone", "mel", "task_correlations", "task_scatter", "best_layers"}
    assert {path.stem for path in (tmp_path / "a").glob("*.pdf")} == pictures
    rows = json.loads((tmp_path / "a" / "analysis.json").read_text())["rows"]
    assert {row["view"] for row in rows} == {"phone", "mel"}


def test_layers(speech, model, scores, tmp_path, capsys):
    words = ["layers", model[0], "--words", speech, "--phones", speech, "--samples", "2"]
    assert main([*words, "--scores", scores, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "For keywords, intents, scenarios (KS, IC, SLURP): layer " in printed
    assert "For phone and speech recognition (PR, ASR): layer " in printed
    assert "| layer | CCA phone | CCA word | why here |" in printed
    assert "ic (meaning): Spearman's rho with heads on the single layers " in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layers", "{model}", "--words"], "name the speech: --speech MANIFEST"),
        (["layers", "{model}", "--speech", "{speech}"], "say where words or phones are: --words, --phones"),
        (["cca", "{model}", "--speech", "{speech}", "--layer", "12"], "t1 has no layer '12'"),
        (["cca", "{model}", "--speech", "{speech}", "--words", "no.ctm"], "no.ctm"),
        (["cca", "{model}", "--speech", "no.jsonl.gz"], "no.jsonl.gz does not exist"),
        (["cca", "no_model", "--speech", "{speech}"], "no_model does not exist"),
    ],
)
def test_bad_input_is_one_line(words, message, speech, model, tmp_path, capsys):
    given = [word.format(model=model[0], speech=speech) for word in words]
    assert main([*given, "--out", str(tmp_path / "out")]) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and said[-1].startswith("distill: ")
