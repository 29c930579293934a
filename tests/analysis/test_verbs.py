"""Every verb that looks inside models, on the corpora and recipes of the demo."""

import json

import pytest

from distill.cli import main
from distill.run import run
from tests.distill.training.runs import tiny

pytestmark = pytest.mark.slow

SPOKEN_HOURS = 0.05
"""Of training speech: each of ten parts has more phones than there are different ones."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The corpora, a teacher, a student of it, and a head for keywords on each."""
    pytest.importorskip("espeakng_loader")
    from distill.data_prep import mini

    root = tmp_path_factory.mktemp("demo")
    data = root / "data"
    mini.prepare(data, size="tiny", hours=SPOKEN_HOURS)
    run(tiny(data, "distort=false", name="mini_teacher", steps=4), root / "teacher")
    run(tiny(data, f"teacher={root / 'teacher'}", name="mini", steps=4), root / "s1")
    for model in ("teacher", "s1"):
        words = [f"sources.{split}={data}/keywords_{split}.jsonl.gz" for split in ("train", "dev", "test")]
        evaluate = ["evaluate", "ks", "--student", str(root / model), "--condition", "clean", *words]
        options = ["steps=4", "every_n_steps=2", "workers=0", "logging.wandb=off"]
        assert main([*evaluate, *options, "--out", str(root / "evaluations" / model)]) == 0
    return root


def analyse(demo, capsys, name, *words):
    """Run a verb into the folder of analyses; its rows and what it printed."""
    out = demo / "analyses" / name
    assert main([*words, "--out", str(out)]) == 0, capsys.readouterr().err
    assert {path.suffix for path in out.iterdir()} >= {".json", ".csv", ".png", ".pdf"}
    return json.loads((out / "analysis.json").read_text())["rows"], capsys.readouterr().out


@pytest.fixture
def keywords(demo):
    return ["--speech", str(demo / "data" / "keywords_test.jsonl.gz")]


@pytest.fixture
def models(demo):
    return [str(demo / "teacher"), str(demo / "s1")]


def test_probe_waveform(demo, keywords, models, capsys):
    recognisers = [f"{m}@{demo}/evaluations/{m.split('/')[-1]}/heads/ks-last-seed0" for m in models]
    noise = ["--noise", f"fsd={demo}/data/fsd_test.jsonl.gz"]
    perturb = [
        f"--perturb={each}"
        for each in ("white_noise=0,1", "speed=50,200", "background:fsd=10,0", "fgsm=20,10")
    ]
    rows, _ = analyse(demo, capsys, "e1", "probe", "waveform", *recognisers, *keywords, *noise, *perturb)
    found = {(row["model"], row["perturbation"]) for row in rows}
    assert found >= {
        (m, p) for m in ("teacher", "s1") for p in ("white_noise", "speed", "background_fsd", "fgsm")
    }


def test_probe_layers(demo, keywords, models, capsys):
    rows, _ = analyse(
        demo, capsys, "e2a", "probe", "layers", *models, *keywords, "--sigma", "0", "--sigma", "0.4"
    )
    layers = {name: {row["layer"] for row in rows if row["model"] == name} for name in ("teacher", "s1")}
    assert layers == {"teacher": {"cnn", *"0123456"}, "s1": {"cnn", *"012"}}


def test_probe_layers_by_the_distillation_loss(demo, keywords, models, capsys):
    words = ["--teacher", models[0], "--sigma", "0", "--sigma", "0.4", "--kind", "additive"]
    rows, _ = analyse(demo, capsys, "e2a_loss", "probe", "layers", models[1], *keywords, *words)
    assert {row["metric"] for row in rows} == {"loss"}


def test_probe_activations(demo, keywords, models, capsys):
    noise = [
        "--condition",
        "fsd",
        "--noise",
        f"fsd={demo}/data/fsd_test.jsonl.gz",
        "--rho",
        "0.1",
        "--no-cca",
    ]
    rows, _ = analyse(demo, capsys, "e2b", "probe", "activations", *models, *keywords, *noise)
    assert {row["metric"] for row in rows} == {"distance", "relative", "cosine"}
    assert {row["disturbance"] for row in rows} == {"noise 0.1", "fsd"}


def test_cca(demo, models, capsys):
    speech = [
        "--speech",
        f"{demo}/data/speech_train.jsonl.gz",
        "--phones",
        "--samples",
        "1",
        "--random",
    ]
    rows, text = analyse(demo, capsys, "cca", "cca", *models, *speech)
    assert {row["view"] for row in rows} == {"local", "mel", "phone"}
    assert "s1 (random weights)" in text


def test_layers(demo, models, capsys):
    words = ["--phones", f"{demo}/data/speech_train.jsonl.gz", "--samples", "1"]
    _, text = analyse(demo, capsys, "layers", "layers", models[0], *words)
    assert "For phone and speech recognition (PR, ASR): layer " in text


def test_tsne(demo, keywords, models, capsys):
    noise = [f"--noise={name}={demo}/data/{name}_test.jsonl.gz" for name in ("musan", "fsd", "dns", "rir")]
    _, text = analyse(demo, capsys, "tsne", "tsne", *models, *keywords, *noise)
    assert "| teacher |" in text and "| s1 |" in text


def test_the_report_shows_all_of_them(demo, capsys):
    """After the others: their folders are there."""
    made = sorted(path.name for path in (demo / "analyses").iterdir())
    assert main(["report", str(demo / "analyses"), "--out", str(demo / "report.html")]) == 0
    page = (demo / "report.html").read_text()
    assert made and all(f"{name}" in page for name in made)
    assert page.count("data:image/png;base64,") >= len(made)
