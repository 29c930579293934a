"""The look of figures."""

import itertools
import math

import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from distill.analysis.figures import (
    COLUMN_IN,
    add_legend,
    by_seed,
    draw_bars,
    draw_layers,
    draw_lines,
    draw_scatter,
    new_figure,
    save,
    seeds_as_one,
    style,
)

NASTY = ["_teacher", "s1 $x_1$", "a $", "s4" * 40, "$" * 20, "new\nline", r"\frac{"]


def lightness(colour) -> float:
    return sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(colour), strict=True))


def rendered(axis, texts):
    """Boxes of texts, in pixels, after the layout is made."""
    axis.figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts]


def test_neighbouring_series_differ_in_marker_dashes_and_lightness():
    for one, other in zip(map(style, range(7)), map(style, range(1, 8)), strict=True):
        assert one["marker"] != other["marker"] and one["linestyle"] != other["linestyle"]
        assert abs(lightness(one["color"]) - lightness(other["color"])) > 0.05


def test_no_two_of_many_series_look_the_same():
    looks = [(look["color"], look["marker"], look["linestyle"]) for look in map(style, range(32))]
    assert len(set(looks)) == 32


@pytest.mark.filterwarnings("error")
def test_names_are_shown_as_they_are_and_all_of_them_within_the_figure(tmp_path):
    figure = new_figure()
    axis = figure.subplots()
    draw_lines(
        axis, {name: ([0, 1], [2, 3]) for name in NASTY}, xlabel="x" * 90, ylabel="y", title="a $ title " * 9
    )
    height = figure.get_figheight()
    add_legend(figure, axis)
    save(figure, tmp_path / "a", [])
    (legend,) = figure.legends
    texts = legend.get_texts()
    shown = [text.get_text().replace("\n", "").replace("\u200b", "") for text in texts]
    assert shown == [name.replace("$", r"\$").replace("\n", " ") for name in NASTY]
    assert figure.get_figheight() > height  # so that the axis keeps its size
    for box in rendered(axis, [*texts, axis.title, axis.xaxis.label]):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1


def test_layers_go_from_dark_to_light():
    axis = new_figure().subplots()
    names = [str(layer) for layer in range(13)]
    draw_layers(axis, {name: ([0, 1], [int(name), 2]) for name in names}, names, xlabel="x", ylabel="y")
    light = [lightness(line.get_color()) for line in axis.lines]
    assert light == sorted(light) and light[-1] - light[0] > 0.4
    assert all(b - a > 0.01 for a, b in itertools.pairwise(light))
    markers = [line.get_marker() for line in axis.lines]
    assert all(a != b for a, b in itertools.pairwise(markers))


@pytest.mark.filterwarnings("error")
def test_bars_have_their_heights_and_texts(tmp_path):
    axis = new_figure().subplots()
    groups = {"ks": {"best": 0.5, "all": -0.25}, "asr$": {"best": math.nan, "$all": 0.75}}
    draw_bars(axis, groups, ylabel="score", labels={("ks", "best"): "4", ("ks", "all"): "a_$"})
    heights = [[bar.get_height() for bar in series] for series in axis.containers]
    assert heights[0][0] == 0.5 and heights[1][0] == -0.25 and heights[2][1] == 0.75
    assert math.isnan(heights[0][1]) and math.isnan(heights[1][1]) and math.isnan(heights[2][0])
    texts = {text.get_text(): text for text in axis.texts if text.get_text()}
    assert set(texts) == {"4", r"a_\$", "n/a"}
    assert sum(text.get_text() == "n/a" for text in axis.texts) == 3
    first = axis.containers[0][0]
    assert texts["4"].xy == pytest.approx((first.get_x() + first.get_width() / 2, 0.5))
    assert len({series[0].get_hatch() for series in axis.containers}) == 3
    assert [text.get_text() for text in axis.get_xticklabels()] == ["ks", r"asr\$"]
    add_legend(axis.figure, axis)
    save(axis.figure, tmp_path / "a", [])


def test_texts_of_bars_stay_within_the_axis_when_there_are_many():
    axis = new_figure().subplots()
    groups = {f"a long name {g}": {f"s{s}": 90.0 for s in range(4)} for g in range(7)}
    draw_bars(axis, groups, ylabel="%", labels={(g, s): "layer 10" for g in groups for s in groups[g]})
    for box in rendered(axis, axis.texts):
        assert box.y1 <= axis.bbox.y1 + 1
    boxes = rendered(axis, axis.texts)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_labels_of_points_do_not_cover_each_other():
    axis = new_figure(width_in=COLUMN_IN, height_in=2.3).subplots()
    points = [(math.cos(k) * k, k // 2, str(k)) for k in range(12)] + [
        (0.0, 0.0, "12"),
        (0.0, math.nan, "no"),
    ]
    draw_scatter(axis, points, xlabel="x", ylabel="y", title="t")
    assert [text.get_text() for text in axis.texts] == [str(k) for k in range(13)]
    boxes = rendered(axis, axis.texts)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert axis.get_title() == "t\nwithout a value: no"
    assert list(axis.lines[0].get_ydata()) == [y for _, y, _ in points[:-1]]


def test_nothing_to_draw_is_an_empty_axis(tmp_path):
    figure = new_figure()
    one, other, third = figure.subplots(1, 3)
    draw_bars(one, {}, ylabel="y")
    draw_scatter(other, [], xlabel="x", ylabel="y")
    draw_layers(third, {}, [], xlabel="x", ylabel="y")
    add_legend(figure, one)
    save(figure, tmp_path / "a", [])


def test_a_figure_is_written_with_its_data(tmp_path):
    figure = new_figure()
    axis = figure.subplots()
    draw_lines(
        axis, {"s1": ([0, 1], [2, 3])}, bands={"s1": ([1, 2], [3, 4])}, xlabel="layer", ylabel="distance"
    )
    add_legend(figure, axis)
    paths = save(figure, tmp_path / "new" / "a.b", [{"layer": 0, "distance": 2}])
    assert [path.name for path in paths] == ["a.b.png", "a.b.pdf", "a.b.csv"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert paths[2].read_text() == "layer,distance\n0,2\n"
    with Image.open(paths[0]) as image:
        assert image.width == round(300 * COLUMN_IN)


def test_seeds_of_a_model_are_one_line():
    names = ["t", "s1-seed0", "s4-seed3", "s1-seed12", "s1"]
    assert by_seed(names) == {"t": ["t"], "s1": ["s1-seed0", "s1-seed12", "s1"], "s4-seed3": ["s4-seed3"]}


def test_rows_of_seeds_are_averaged():
    rows = [
        {"model": name, "layer": layer, "value": value, "low": value - 0.1, "high": value + 0.1}
        for name, values in {"t": (1.0, 2.0), "s1-seed0": (3.0, 5.0), "s1-seed1": (4.0, 9.0)}.items()
        for layer, value in zip("12", values, strict=True)
    ]
    found = seeds_as_one(rows, ["layer"], "value")
    assert found[:2] == rows[:2]
    assert found[2:] == [
        {"model": "s1", "layer": "1", "value": 3.5, "low": 3.0, "high": 4.0, "models": 2},
        {"model": "s1", "layer": "2", "value": 7.0, "low": 5.0, "high": 9.0, "models": 2},
    ]


def test_a_layer_looks_the_same_in_every_panel():
    order = ["cnn", *map(str, range(7))]
    above, below = new_figure().subplots(2, 1)
    for axis, names in ((above, order), (below, ["cnn", "0", "2"])):
        draw_layers(axis, {name: ([0, 1], [0, 1]) for name in names}, order, xlabel="x", ylabel="y")
    looks = [
        {line.get_label(): (line.get_color(), line.get_marker()) for line in axis.lines}
        for axis in (above, below)
    ]
    assert all(looks[0][name] == look for name, look in looks[1].items())


def test_a_line_looks_the_same_in_every_panel():
    above, below = new_figure().subplots(2, 1)
    for axis, names in ((above, "abc"), (below, "c")):
        draw_lines(axis, {name: ([0], [0]) for name in names}, order=list("abc"), xlabel="x", ylabel="y")
    assert below.lines[0].get_marker() == above.lines[2].get_marker() == style(2)["marker"]
