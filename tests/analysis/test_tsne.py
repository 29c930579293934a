"""Fig. 2, and the number that it stands for."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from distill.analysis.figures import COLUMN_IN, PAGE_IN
from distill.analysis.models import OurModel
from distill.analysis.record import read_record
from distill.analysis.separation import separation
from distill.analysis.splits import KINDS, Splits, make_splits
from distill.analysis.tsne import ALL, draw, plot, project, separations, write_picture
from distill.checkpoints import native
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.errors import UserError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[str]:
    """Two models with names that matplotlib might take for something else."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("_a$x$", "b_{2}")):
        torch.manual_seed(seed)
        native.write(HubertEncoder.from_preset("mini"), root / name)
    return [str(root / "_a$x$"), str(root / "b_{2}")]


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for index in range(11):
        samples = 0.1 * generator.standard_normal(2000 + 300 * index)
        soundfile.write(root / f"{index}.wav", samples, 16_000)
    return str(root)


def made(*models: str, splits: int = 11, shift: float = 0.5) -> Splits:
    generator = np.random.default_rng(0)
    clean = generator.standard_normal((splits, 8))
    means = {kind: clean + shift * number for number, kind in enumerate(KINDS)}
    names = tuple(map(str, range(2 * splits)))
    return Splits(means=dict.fromkeys(models, means), identities=dict.fromkeys(models, "x"), utterances=names)


def test_projections_keep_clusters_apart():
    generator = np.random.default_rng(0)
    means = {
        "clean": generator.standard_normal((20, 16)),
        "fsd": 50 + generator.standard_normal((20, 16)),
    }
    flat = project(means, seed=1)
    assert {kind: points.shape for kind, points in flat.items()} == {"clean": (20, 2), "fsd": (20, 2)}
    middles = {kind: points.mean(0) for kind, points in flat.items()}
    for kind, points in flat.items():
        own = np.linalg.norm(points - middles[kind], axis=1)
        other = np.linalg.norm(points - middles["fsd" if kind == "clean" else "clean"], axis=1)
        assert (own < other).all()
    again = project(means, seed=1)
    assert all(np.array_equal(flat[kind], again[kind]) for kind in flat)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_points_that_are_all_the_same_stay_so(value):
    flat = project({"clean": np.full((3, 4), value), "fsd": np.full((3, 4), value)})
    assert not np.concatenate(list(flat.values())).any()


def test_the_smallest_set_can_be_projected():
    flat = project({kind: np.random.default_rng(0).standard_normal((2, 4)) for kind in KINDS[:3]})
    assert all(np.isfinite(points).all() for points in flat.values())


def test_each_condition_is_compared_with_clean_speech_and_all_with_each_other():
    splits = made("m")
    means = splits.means["m"]
    found = separations(splits, seed=3)["m"]
    assert list(found) == [ALL, *KINDS[1:]]
    assert found[ALL] == separation(means, seed=3)
    assert found["dns"] == separation({"clean": means["clean"], "dns": means["dns"]}, seed=3)
    ratios = [found[kind].ratio for kind in KINDS[1:]]
    assert ratios == sorted(ratios)  # `made` moves each kind further


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("number", "width"), [(1, COLUMN_IN), (2, COLUMN_IN), (3, COLUMN_IN), (5, PAGE_IN)])
def test_a_figure_has_a_panel_for_each_model(number, width):
    names = ["_teacher", "s1 $x_1$", "a very long name " * 5, "s4" * 30, r"\frac{"][:number]
    points = {kind: np.random.default_rng(0).standard_normal((9, 2)) for kind in KINDS}
    figure = draw(dict.fromkeys(names, points), dict.fromkeys(names, "0.31 [0.29, 0.35]"), caption="c " * 99)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == pytest.approx(width)
    panels = [axis for axis in figure.axes if axis.axison]
    assert len(panels) == number
    for axis, name in zip(panels, names, strict=True):
        shown = axis.get_title().replace("\n", "").replace("\u200b", "").replace(r"\$", "$")
        assert shown.replace(" ", "") == f"{name}0.31 [0.29, 0.35]".replace(" ", "")
        assert len({line.get_marker() for line in axis.lines}) == len(KINDS)
        assert min(axis.bbox.width, axis.bbox.height) > 60  # of 100 dots per inch
        box = axis.title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(KINDS)
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_picture_has_its_points_and_ratios_beside_it(tmp_path, suffix):
    splits = made("a", "b")
    rows = write_picture(splits, tmp_path / "new" / f"x.y{suffix}", {"speech": "s"}, seed=2)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"x.y.png", "x.y.pdf", "x.y.csv", "x.y.json", f"x.y{suffix}"}
    with Image.open(tmp_path / "new" / "x.y.png") as image:
        assert image.width == round(300 * COLUMN_IN)
    written = json.loads((tmp_path / "new" / "x.y.json").read_text())
    assert written == {"kind": "tsne", "settings": {"speech": "s"}, "rows": rows}
    assert len(rows) == 2 * len(KINDS) and rows[0]["condition"] == ALL
    expected = separation(splits.means["a"], seed=2)
    assert (rows[0]["ratio"], rows[0]["low"], rows[0]["high"]) == (
        expected.ratio,
        expected.low,
        expected.high,
    )
    assert rows[0]["splits"] == 11 and rows[0]["utterances"] == 22
    points = list(csv.DictReader((tmp_path / "new" / "x.y.csv").read_text().splitlines()))
    assert len(points) == 2 * 11 * len(KINDS)
    flat = project(splits.means["b"], seed=2)["dns"]
    last = points[-1]
    assert (last["model"], last["condition"], last["split"]) == ("b", "dns", "10")
    assert (float(last["x"]), float(last["y"])) == pytest.approx(tuple(flat[-1]))


@pytest.mark.filterwarnings("error:Glyph")
def test_models_are_added_to_a_folder(checkpoints, speech, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    first = plot(checkpoints[:1], speech, {}, out)
    names = {"analysis.json", "rows.csv", "means.npz", "tsne.png", "tsne.pdf", "tsne.csv"}
    assert {path.name for path in out.iterdir()} == names
    assert first.startswith("| within / between splits | all | gaussian | reverb |\n")
    assert "33 points: 11 splits, each an utterance, in 3 conditions (without musan, fsd, dns)" in first
    before = read_record(out)["rows"]
    measured = []

    def noted(models, *args, **options):
        measured.extend(model.name for model in models)
        return make_splits(models, *args, **options)

    monkeypatch.setattr("distill.analysis.tsne.make_splits", noted)
    text = plot(checkpoints[1:], speech, {}, out)
    assert measured == ["b_{2}"]
    rows = read_record(out)["rows"]
    assert rows[:3] == before and [row["model"] for row in rows] == ["_a$x$"] * 3 + ["b_{2}"] * 3
    assert "| _a$x$ |" in text and "| b_{2} |" in text
    together = tmp_path / "together"
    plot(checkpoints, speech, {}, together)
    assert read_record(together) == read_record(out)
    measured.clear()
    plot(checkpoints, speech, {}, out)
    assert measured == []
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        plot(checkpoints, speech, {}, out, seed=1)


def test_mistakes_are_named(checkpoints, speech, tmp_path):
    with pytest.raises(UserError, match=r"must end in .png, .pdf or .svg; a new folder has no dot"):
        plot(checkpoints, speech, {}, tmp_path / "x.txt")
    with pytest.raises(UserError, match="1 splits: at least 2"):
        plot(checkpoints, speech, {}, tmp_path / "x", splits=1)


def test_a_spiral_has_its_points(speech, tmp_path):
    torch.manual_seed(0)
    model = OurModel(SpiralEncoder.from_preset("mini"), "spiral")
    splits = make_splits([model], open_cuts(speech), NoiseReader({}), kinds=("clean", "gaussian"))
    assert splits.means["spiral"]["clean"].shape[1] == 128
    rows = write_picture(splits, tmp_path / "x.png", {"speech": "s"}, seed=2)
    assert {row["model"] for row in rows} == {"spiral"} and np.isfinite([row["ratio"] for row in rows]).all()
