import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colors
from PIL import Image

from fluxseg.errors import WorkdirError
from fluxseg.formats.own import is_prediction
from fluxseg.plot import ERRORS, OUTSIDE
from fluxseg.report.plots import (
    plot_confusion,
    plot_curves,
    plot_example,
    plot_recordings,
    plot_reliability,
    save_png,
)
from tests.commands import run_python
from tests.report.test_compare import part

CONFUSION = np.array([[26470910, 1912264], [351390, 1674140]])


def history(epochs=5, splits=("train", "val")):
    names = ("loss", "accuracy", "macro_iou", "neuron_iou")
    return [
        {"epoch": epoch, "step": 10 * epoch}
        | {f"{s}_{n}": epoch / 10 + i for s in splits for i, n in enumerate(names)}
        for epoch in range(1, epochs + 1)
    ]


def field(shape=(16, 24)):
    rng = np.random.default_rng(0)
    image = rng.random(shape, np.float32)
    label = (rng.random(shape) < 0.3).astype(np.uint8)
    return image, label, rng.random(shape, np.float32), rng.random(shape) < 0.9


def rgb(color):
    return np.round(255 * np.array(colors.to_rgb(color))).astype(int)


def drawn(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_curves_hold_the_history_and_mark_the_chosen_epoch():
    rows = history()
    rows[2]["val_loss"] = None
    figure = plot_curves(rows, best_epoch=4)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Loss",
        "Accuracy",
        "Macro IoU",
        "Neuron IoU",
    ]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"Training", "Validation", "Chosen checkpoint (epoch 4)"}
    np.testing.assert_allclose(lines["Training"].get_ydata(), [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_array_equal(np.isnan(lines["Validation"].get_ydata()).nonzero()[0], [2])
    for axes in figure.axes:
        assert list(axes.lines[-1].get_xdata()) == [4, 4]
    assert len({line.get_linestyle() for line in lines.values()}) >= 2


@pytest.mark.parametrize("rows", [history(1), history(3, ("train",)), [{"epoch": 1}], []])
def test_curves_of_short_and_incomplete_histories_are_drawn(rows):
    assert drawn(plot_curves(rows)).std() > 0


def test_confusion_shows_counts_and_shares_of_the_truth():
    panel = plot_confusion(CONFUSION, "Test").axes[0]
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["93.3 %", "26,470,910 px", "6.7 %", "1,912,264 px",
                     "17.3 %", "351,390 px", "82.7 %", "1,674,140 px"]  # fmt: skip
    shares = panel.images[0].get_array()
    np.testing.assert_allclose(shares.sum(1), 1)
    assert panel.get_xlabel() == "Predicted"
    assert panel.get_ylabel() == "Truth"


def test_classes_without_pixels_have_no_share():
    texts = [t.get_text() for t in plot_confusion(np.array([[5, 5], [0, 0]])).axes[0].texts]
    assert texts[0] == "50.0 %"
    assert texts[4] == texts[6] == "no pixels"


def test_error_colours_agree_with_a_look_at_each_pixel():
    image, label, probability, valid = field()
    probability[0, :2] = 0.5, np.nextafter(np.float32(0.5), np.float32(1))
    shown = np.asarray(plot_example(image, label, probability, valid).axes[3].images[0].get_array())
    if shown.dtype != np.uint8:
        shown = np.round(255 * shown)
    found, alarm, missed = map(rgb, ERRORS.values())
    for y, x in np.ndindex(label.shape):
        predicted = probability[y, x] > 0.5
        expected = {
            (1, True): found,
            (0, True): alarm,
            (1, False): missed,
            (0, False): np.round(255 * 0.4 * np.repeat(image[y, x], 3)),
        }[int(label[y, x]), bool(predicted)]
        expected = expected if valid[y, x] else rgb(OUTSIDE)
        np.testing.assert_allclose(shown[y, x], expected, atol=1)


@pytest.mark.parametrize("shape", [(64, 64), (20, 60), (60, 20), (10, 80), (80, 10)])
def test_nothing_of_an_example_is_cut_off(shape):
    figure = plot_example(*field(shape), "Best")
    drawn(figure)
    for axes in (*figure.axes, *figure.axes[2].child_axes):
        box = axes.get_tightbbox()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


def test_an_example_shows_every_array_and_hides_what_is_not_scored():
    image, label, probability, valid = field()
    image[3, 3] = np.nan
    figure = plot_example(image, label, probability, valid, "Best")
    pictures = [axes.images[0].get_array() for axes in figure.axes[:3]]
    for picture, values in zip(pictures, (image, label, probability), strict=True):
        hidden = ~valid | ~np.isfinite(values)
        np.testing.assert_array_equal(np.ma.getmaskarray(picture), hidden)
        np.testing.assert_allclose(picture.data[~hidden], values[~hidden])
    legend = [text.get_text() for text in figure.axes[3].get_legend().get_texts()]
    assert legend == [*ERRORS, "Not scored"]
    whole = plot_example(image, label, probability, np.ones_like(valid))
    assert [t.get_text() for t in whole.axes[3].get_legend().get_texts()] == [*ERRORS]
    assert drawn(figure).std() > 0


def test_distributions_hold_each_defined_score():
    values = [0.2, 0.4, None, 0.9]
    rows = [{"scores": {"neuron_iou": v, "macro_iou": 0.5, "precision": 0.6}} for v in values]
    panel = plot_recordings(rows).axes[0]
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == ["Neuron IoU\n(1 undefined)", "Macro IoU", "Precision",
                      "Recall\n(4 undefined)"]  # fmt: skip
    dots = panel.collections[0].get_offsets()
    np.testing.assert_allclose(sorted(dots[:, 0]), [0.2, 0.4, 0.9])
    low, high = panel.lines[0].get_xdata()
    assert (low, high) == pytest.approx((0.3, 0.65))
    assert [text.get_text() for text in panel.texts] == ["0.40", "0.50", "0.60"]
    assert panel.get_title(loc="left") == "4 recordings"
    assert drawn(plot_recordings([])).std() > 0


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


@settings(max_examples=5, deadline=None)
@given(st.text(max_size=150))
def test_any_title_can_be_drawn(title):
    image, label, probability, valid = field((4, 4))
    # Warnings, such as those of missing glyphs, are errors here.
    assert drawn(plot_example(image, label, probability, valid, title)).std() > 0


@pytest.mark.parametrize("title", ["$\\frac{1}{0}$", "神经元 $", "a\nb\x00\u202e", "x" * 500])
def test_titles_are_no_formulas(title):
    drawn(plot_confusion(CONFUSION, title))


def test_the_same_figure_gives_the_same_file_without_a_trace_of_when(tmp_path):
    for name in ("first.png", "second.png"):
        save_png(plot_example(*field(), "Best"), tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        assert set(image.info) <= {"dpi", "Software"}
        assert is_prediction(tmp_path / "first.png")
        assert image.size == (2131, 535)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_figure_that_cannot_be_written_names_the_path(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkdirError, match=r"a\.png"):
        save_png(plot_confusion(CONFUSION), tmp_path / "file" / "a.png")


def test_plots_need_no_display_and_no_pyplot():
    code = (
        "import sys, numpy, fluxseg.report.plots as p;"
        "p.plot_confusion(numpy.ones((2, 2), int)).canvas.draw();"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    run_python("-W", "error", "-c", code)
