import numpy as np

from fluxseg.report.plots import plot_reliability, save_png
from tests.report.test_compare import part


def test_a_curve_passes_through_the_shares_of_its_bins(tmp_path):
    rows = part(0.1, 1)["curve"]
    figure = plot_reliability({"before": rows, "$a$ & <b>": rows})
    above, below = figure.axes
    line = above.get_lines()[1]
    filled = [row for row in rows if row["pixels"]]
    np.testing.assert_allclose(line.get_xdata(), [row["confidence"] for row in filled])
    np.testing.assert_allclose(line.get_ydata(), [row["share"] for row in filled])
    assert [text.get_text() for text in above.get_legend().get_texts()] == [
        "perfect", "before", "$a$ & <b>"
    ]  # fmt: skip
    assert below.get_yscale() == "log"
    save_png(figure, tmp_path / "r.png")


def test_an_empty_curve_is_drawn_too(tmp_path):
    rows = [{**row, "pixels": 0, "confidence": None, "share": None} for row in part(0, 1)["curve"]]
    save_png(plot_reliability({"nothing": rows}), tmp_path / "r.png")
    save_png(plot_reliability({}), tmp_path / "s.png")
