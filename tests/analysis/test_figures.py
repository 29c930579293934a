"""The look of figures."""

from matplotlib.colors import to_rgb
from PIL import Image

from distill.analysis.figures import COLUMN_IN, add_legend, draw_lines, new_figure, save, style


def test_neighbouring_series_differ_in_marker_dashes_and_lightness():
    for one, other in zip(map(style, range(7)), map(style, range(1, 8)), strict=True):
        assert one["marker"] != other["marker"] and one["linestyle"] != other["linestyle"]
        light = [
            sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(s["color"]), strict=True))
            for s in (one, other)
        ]
        assert abs(light[0] - light[1]) > 0.05


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
