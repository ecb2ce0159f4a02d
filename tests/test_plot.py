"""Figures, by the numbers they show."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import fastdmf as dmf
from fastdmf import plot
from fastdmf.demo import demo


@pytest.fixture
def make_result():
    """A function (loss="mean", rank=2, **records) → a result of a run that never took place."""

    def make(loss="mean", rank=2, steps=(0, 1, 10, 100), **records):
        rng = np.random.default_rng(rank)
        return dmf.Result(
            factors=[rng.standard_normal((rank, 12)), rng.standard_normal((12, rank))],
            factorization=dmf.Product(2, (rank,)),
            loss=0.0,
            test_error=0.0,
            steps=steps[-1],
            evaluations=steps[-1] + 1,
            time=1.0,
            seconds=1.0,
            status=dmf.Status.CONVERGED,
            seed=0,
            settings={"loss": loss},
            records={"step": np.array(steps), **{name: np.array(x) for name, x in records.items()}},
        )

    return make


LOSS = [1.0, 0.5, 1e-3, 1e-6]
ERROR = [1.0, 0.9, 0.3, 0.1]
SPECTRUM = 10.0 ** -np.arange(12) * np.array([[1.0], [2.0], [3.0], [4.0]])


def data_of(line):
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def test_trace_shows_what_was_recorded(make_result):
    result = make_result(test_error=ERROR, loss_=LOSS, singular_values=SPECTRUM)
    result.records["loss"] = result.records.pop("loss_")
    figure = plot.trace(result)
    losses, errors, spectrum = figure.axes
    for panel, expected in ((losses, LOSS), (errors, ERROR)):
        (line,) = panel.lines
        steps, values = data_of(line)
        assert np.array_equal(steps, result.records["step"])
        assert np.array_equal(values, expected)
    shown = np.array([data_of(line)[1] for line in spectrum.lines])[::-1]
    assert np.array_equal(shown.T, SPECTRUM)
    legend = spectrum.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["leading 10", "other 2"]
    assert all(panel.get_yscale() == "log" and panel.get_xscale() == "symlog" for panel in figure.axes)
    assert losses.get_xlim()[0] == 0  # the start is shown
    assert spectrum.get_xlabel() == "step"
    assert "RMSE" in errors.get_ylabel()


def test_trace_draws_on_given_axes(make_result):
    result = make_result(test_error=ERROR)
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert plot.trace(result, axes[1]) is figure
    assert not axes[0].lines
    assert np.array_equal(data_of(axes[1].lines[0])[1], ERROR)
    assert plot.trace(result, axes[:1]) is figure
    with pytest.raises(ValueError, match=r"1 axes are needed, for test_error; 2 were given"):
        plot.trace(result, axes)


def test_trace_leaves_out_unknown_errors(make_result):
    unknown = make_result(test_error=[np.nan] * 4, reconstruction_error=ERROR)
    (panel,) = plot.trace(unknown).axes
    assert "reconstruction" in panel.get_ylabel()
    for result in (make_result(test_error=[np.nan] * 4), make_result(nuclear_norm=ERROR)):
        with pytest.raises(ValueError, match="nothing to draw"):
            plot.trace(result)


@pytest.mark.parametrize("values", [[0.0] * 4, [np.inf] * 4, [np.nan] * 4, [1.0, 0.0, np.nan, np.inf]])
def test_trace_of_values_that_no_logarithm_shows(make_result, values, tmp_path):
    result = make_result()
    result.records["loss"] = np.array(values)
    plot.trace(result).savefig(tmp_path / "a.png")


def test_roundoff_does_not_stretch_the_axis(make_result):
    result = make_result(singular_values=np.array([[1.0, 1e-17]] * 4))
    (panel,) = plot.trace(result).axes
    assert panel.get_ylim()[0] == pytest.approx(1e-8)
    result = make_result(singular_values=np.array([[1.0, 1e-7]] * 4))
    (panel,) = plot.trace(result).axes
    assert 1e-8 < panel.get_ylim()[0] < 1e-7


@pytest.mark.parametrize(
    ("loss", "formula"),
    [("mean", r"\frac{1}{m}"), ("half_sum", r"\frac{1}{2}"), ("half_mean", r"\frac{1}{2m}")],
)
def test_label_states_the_normalization_of_the_loss(make_result, loss, formula):
    result = make_result(loss)
    result.records["loss"] = np.array(LOSS)
    assert formula in plot.trace(result).axes[0].get_ylabel()


@pytest.fixture
def runs(make_result):
    """Two runs by label, with ranks 2 and 3."""
    results = {}
    for rank in (2, 3):
        result = make_result(rank=rank, test_error=ERROR, reconstruction_error=[x / rank for x in ERROR])
        result.records["loss"] = np.array(LOSS) / rank
        results[f"rank {rank}"] = result
    return results


def test_comparison_shows_loss_error_and_spectrum(runs):
    truth = np.diag(np.arange(12.0, 0.0, -1.0))
    losses, errors, spectrum = plot.comparison(runs, truth).axes
    for panel, name in ((losses, "loss"), (errors, "reconstruction_error")):
        assert [line.get_label() for line in panel.lines] == list(runs)
        for line, result in zip(panel.lines, runs.values(), strict=True):
            steps, values = data_of(line)
            assert np.array_equal(steps, result.records["step"])
            assert np.array_equal(values, result.records[name])
    planted, *found = spectrum.lines
    assert np.allclose(data_of(planted)[1], np.arange(12, 2, -1))
    for line, result in zip(found, runs.values(), strict=True):
        index, values = data_of(line)
        assert np.array_equal(np.round(index), np.arange(1, 11))
        assert np.allclose(values, np.linalg.svd(result.product, compute_uv=False)[:10])
    assert len({line.get_color() for line in spectrum.lines}) == 3
    assert len({line.get_linestyle() for line in losses.lines}) == 2


def test_comparison_takes_an_error_that_all_recorded(runs):
    del runs["rank 2"].records["reconstruction_error"]
    _, errors, spectrum = plot.comparison(runs).axes
    assert "RMSE" in errors.get_ylabel()
    assert len(spectrum.lines) == 2
    del runs["rank 3"].records["test_error"]
    with pytest.raises(ValueError, match="no error in common"):
        plot.comparison(runs)
    del runs["rank 3"].records["loss"]
    with pytest.raises(ValueError, match=r"'rank 3' recorded no loss"):
        plot.comparison(runs)
    with pytest.raises(TypeError, match="mapping from labels to results, not list"):
        plot.comparison([runs["rank 2"]])
    with pytest.raises(TypeError, match="must be a Result, which run returns, not dict"):
        plot.trace(runs)
    with pytest.raises(ValueError, match="no results"):
        plot.comparison({})


def test_paths_of_figures(tmp_path):
    plot.check_path(tmp_path / "a.pdf")
    with pytest.raises(ValueError, match=r"a\.nc.*png"):
        plot.check_path(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=r"suffix"):
        plot.check_path(tmp_path / "a")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        plot.check_path(tmp_path / "nowhere" / "a.png")


TINY = dmf.Completion.random(shape=(10, 10), rank=1, observed=60, seed=0)


def test_demo_returns_what_it_draws(tmp_path):
    out = tmp_path / "demo.png"
    done = demo(out, seed=3, depths=[1, 2], problem=TINY, stop=dmf.MaxSteps(400))
    assert out.read_bytes().startswith(b"\x89PNG")
    assert list(done.results) == [1, 2]
    alone = dmf.run(
        TINY, depth=2, optimizer=dmf.GroupRMSprop(), stop=dmf.MaxSteps(400), seed=3, dtype="float32"
    )
    assert np.array_equal(done.results[2].product, alone.product)
    header, *rows = [line.split() for line in done.table().splitlines()]
    assert header[:5] == ["depth", "steps", "seconds", "loss", "error"]
    for row, (depth, result) in zip(rows, done.results.items(), strict=False):
        assert row[:2] == [str(depth), "400"]
        assert float(row[3]) == pytest.approx(result.loss, rel=1e-2)
        assert float(row[4]) == pytest.approx(
            dmf.metrics.reconstruction_error(result.product, TINY.truth), abs=1e-4
        )
        assert float(row[5]) == pytest.approx(np.linalg.norm(result.product, "nuc"), abs=1e-2)
    assert rows[2] == ["planted", "10.00", "1.00"]  # of rank 1 and Frobenius norm √(n p)


def test_demo_plants_the_problem_of_its_seed(tmp_path):
    done = demo(tmp_path / "a.png", seed=7, depths=[2], stop=dmf.MaxSteps(1))
    assert done.problem.digest == dmf.Completion.random(seed=7).digest


def test_demo_refuses(tmp_path):
    untold = dmf.Completion([0], [0], [1.0], shape=(2, 2))
    with pytest.raises(ValueError, match="truth"):
        demo(tmp_path / "a.png", problem=untold)
    for depths in ([], [2, 2]):
        with pytest.raises(ValueError, match="depths"):
            demo(tmp_path / "a.png", depths=depths)
    with pytest.raises(ValueError, match="folder"):
        demo(tmp_path / "nowhere" / "a.png")


def test_demo_shows_its_progress(tmp_path, capsys):
    demo(tmp_path / "a.png", depths=[2], problem=TINY, stop=dmf.MaxSteps(400), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.split("\r")[-1]
    assert "depth 2: 400 steps" in last
    assert "loss=" in last


def test_figures_leave_pyplot_alone():
    script = """
import sys
import fastdmf
heavy = {"matplotlib", "typer", "xarray", "scipy", "numba"} & set(sys.modules)
assert not heavy, heavy
import numpy as np
from fastdmf import plot
assert "matplotlib" not in sys.modules
records = {"step": np.arange(3), "loss": np.arange(3.0), "test_error": np.arange(3.0)}
status = fastdmf.Status.CONVERGED
result = fastdmf.Result(
    [np.eye(2)], fastdmf.Product(1), 0.0, 0.0, 1, 1, 1.0, 1.0, status, 0, {"loss": "mean"}, records
)
plot.trace(result)
plot.comparison({"a": result}, np.eye(2))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


# --- datasets ---------------------------------------------------------------------------------------------


@pytest.fixture
def swept():
    """Errors of two solutions and a reference, two seeds each."""
    error = [[[0.1, 0.3], [0.01, 0.01]], [[1.0, 3.0], [0.5, 0.7]], [[0.0, 0.0], [0.2, 0.2]]]
    coordinates = {"solution": ["a", "b", "truth"], "m": [10, 20], "seed": [0, 1]}
    return xr.Dataset({"error": (("solution", "m", "seed"), error)}, coordinates)


def test_against_shows_means_and_ranges(swept):
    figure = plot.against(swept, "m", ["error"], hue="solution", references=["truth"])
    (panel,) = figure.axes
    curves = {bars.get_label(): bars for bars in panel.containers}
    assert set(curves) == {"a", "b", "truth"}
    line, _, (bars,) = curves["a"].lines
    assert data_of(line)[1] == pytest.approx([0.2, 0.01])
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.1, 0.3])
    assert data_of(curves["truth"].lines[0]) == (
        pytest.approx([20]),
        pytest.approx([0.2]),
    )  # zeros are left out
    assert panel.get_yscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "truth"]


def test_against_has_a_column_for_each_value(swept):
    both = xr.concat([swept, 2 * swept], xr.Variable("rank", [5, 10]))
    figure = plot.against(both, "m", ["error"], hue="solution", columns="rank")
    assert [panel.get_title() for panel in figure.axes] == ["rank 5", "rank 10"]
    first, second = (panel.containers[1].lines[0].get_ydata() for panel in figure.axes)
    assert second == pytest.approx(2 * np.asarray(first))
    low, high = figure.axes[0].get_ylim()  # which both panels share
    assert low < 0.01 and high > 2 * 3.0


def test_one_rule_cuts_logarithmic_axes_off(swept, tmp_path):
    """Below 1e-5 of the greatest value in a row; where nothing is positive there is nothing to scale."""
    tiny = xr.where(swept.solution == "a", 1e-9 * swept.error, swept.error)
    dataset = xr.Dataset({"tiny": tiny, "none": 0 * swept.error, "error": swept.error})
    figure = plot.against(dataset, "m", list(dataset), hue="solution", logarithmic=["tiny", "none"])
    figure.savefig(tmp_path / "a.png")
    assert figure.axes[0].get_ylim()[0] == pytest.approx(1e-5 * float(tiny.max()))
    path = xr.Dataset({
        "time": (("depth", "point"), [[0.0, 1.0, 2.0]]),
        "singular_values": (("depth", "point", "component"), [[[1e-3, 1e-9], [1.0, 1e-9], [3.0, 1e-9]]]),
    }, {"depth": [2]})  # fmt: skip
    (panel,) = plot.singular_paths(path, logarithmic=True).axes
    assert panel.get_ylim()[0] == pytest.approx(3e-5)


def test_figures_of_datasets_refuse(swept):
    with pytest.raises(ValueError, match="no variable 'loss'; it has error"):
        plot.against(swept, "m", ["loss"], hue="solution")
    with pytest.raises(ValueError, match="dimensions"):
        plot.against(swept.isel(m=0), "m", ["error"], hue="solution")
    with pytest.raises(ValueError, match="lacks time, singular_values"):
        plot.singular_paths(swept)
    with pytest.raises(ValueError, match="lacks predicted, simulated"):
        plot.agreement(swept, panels="solution", hue="m")
    with pytest.raises(ValueError, match="no dimension start; they have"):
        plot.histogram(swept.error, hue="start", columns="m", label="x")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.histogram(np.nan * swept.error, hue="solution", columns="m", label="x")


def test_histogram_counts_everything_known():
    rng = np.random.default_rng(0)
    values = xr.DataArray(
        rng.uniform(size=(2, 3, 100)), {"start": [1e-3, 1.0], "m": [2, 3, 4]}, ("start", "m", "k")
    )
    values[0, 1, :40] = np.nan
    figure = plot.histogram(values, hue="start", columns="m", label="x")
    assert [panel.get_title() for panel in figure.axes] == ["m 2", "m 3", "m 4"]
    outlines = [[outline.get_data() for outline in panel.patches] for panel in figure.axes]
    assert [[data.values.sum() for data in own] for own in outlines] == [[100, 100], [60, 100], [100, 100]]
    assert outlines[0][0].edges[[0, -1]] == pytest.approx([float(values.min()), float(values.max())])


def test_against_a_logarithmic_axis(swept):
    figure = plot.against(swept, "m", ["error"], hue="solution", logarithmic=["m"])
    (panel,) = figure.axes
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "linear")
    for bars in panel.containers:
        assert data_of(bars.lines[0])[0] == pytest.approx([10, 20])  # nothing moved aside


def test_singular_paths_end_when_all_have_settled():
    time = [[0.0, 1.0, 2.0, 9.0, np.nan], [0.0, 1.0, 2.0, 3.0, 4.0]]
    sigma = [[[0, 0], [1, 0.5], [2, 1], [2, 1], [np.nan] * 2], [[k, k / 2] for k in range(5)]]
    size = ("depth", "point")
    dataset = xr.Dataset(
        {
            "time": (size, time),
            "singular_values": ((*size, "component"), sigma),
            "alignment_on_diagonal": (size, np.ones((2, 5))),
            "alignment_off_diagonal": (size, np.full((2, 5), 0.1)),
        },
        {"depth": [1, 2]},
    )
    figure = plot.singular_paths(dataset, aligned=2)
    one, two, gradient = figure.axes
    assert one.get_xlim() == (0, 2)
    assert two.get_xlim() == (0, 4)
    assert data_of(two.lines[-1])[1] == pytest.approx([0, 1, 2, 3, 4])  # the leading one on top
    assert [set(line.get_ydata()) for line in gradient.lines] == [{1.0}, {0.1}]
    assert len(plot.singular_paths(dataset, logarithmic=True).axes) == 2


def test_agreement_shows_both():
    values = xr.DataArray(
        [[[1.0, 2.0]], [[3.0, 4.0]]], {"check": ["x", "y"], "depth": [2]}, ("check", "depth", "k")
    )
    figure = plot.agreement(xr.Dataset({"predicted": values, "simulated": values + 1}), "check", "depth")
    assert [panel.get_title() for panel in figure.axes] == ["x", "y"]
    x, y = data_of(figure.axes[1].lines[0])
    assert (x.tolist(), y.tolist()) == ([3.0, 4.0], [4.0, 5.0])
