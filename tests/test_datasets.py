"""Real data: the file, its checksum, and what is said when it cannot be had."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

import fastdmf as dmf

VARIABLE = "FASTDMF_ML_100K"
FILE = os.environ.get(VARIABLE)

needs_file = pytest.mark.skipif(not FILE, reason=f"{VARIABLE} does not name a u.data of MovieLens 100K")


@needs_file
def test_movielens_from_a_path(monkeypatch):
    problem = dmf.datasets.movielens_100k(FILE)
    assert problem.shape == (943, 1682)
    assert problem.values.size == 10_000
    assert problem.test is not None
    assert problem.test[2].size == 90_000
    assert set(np.unique(problem.values)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert problem.truth is None

    # The line "196 242 3 …" of the file: person 196 gave film 242 three stars.
    everything = np.full(problem.shape, np.nan)
    everything[problem.rows, problem.cols] = problem.values
    everything[problem.test[0], problem.test[1]] = problem.test[2]
    assert np.count_nonzero(~np.isnan(everything)) == 100_000
    assert everything[195, 241] == 3.0
    assert np.nansum(everything) == 352_986

    monkeypatch.setenv(VARIABLE, "/nowhere")  # a path goes before the variable
    assert dmf.datasets.movielens_100k(Path(FILE)).digest == problem.digest


@needs_file
def test_draws_of_movielens():
    base = dmf.datasets.movielens_100k()  # by the variable
    assert dmf.datasets.movielens_100k(seed=0).digest == base.digest
    assert dmf.datasets.movielens_100k(seed=1).digest != base.digest
    assert dmf.datasets.movielens_100k(loss="half_sum").loss == "half_sum"
    few = dmf.datasets.movielens_100k(observed=7)
    assert (few.values.size, few.test[2].size) == (7, 99_993)
    whole = dmf.datasets.movielens_100k(observed=100_000)
    assert whole.test is None
    assert np.isnan(whole.test_error(np.zeros(whole.shape)))


def test_other_files_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "u.data"
    file.write_text("1\t1\t5\t0\n")
    with pytest.raises(ValueError, match=re.escape(str(file))):
        dmf.datasets.movielens_100k(file)
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(ValueError, match="SHA-256"):
        dmf.datasets.movielens_100k()


def test_missing_files_are_named(tmp_path, monkeypatch):
    missing = tmp_path / "none.data"
    with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
        dmf.datasets.movielens_100k(missing)
    monkeypatch.setenv(VARIABLE, str(missing))
    with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
        dmf.datasets.movielens_100k()
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        dmf.datasets.movielens_100k(tmp_path)  # a folder


def test_without_a_network(monkeypatch):
    import pooch
    import requests

    monkeypatch.delenv(VARIABLE, raising=False)
    for error in (requests.ConnectionError("no route"), PermissionError("read-only cache")):

        def fail(*_args, error=error, **_choices):
            raise error

        monkeypatch.setattr(pooch, "retrieve", fail)
        with pytest.raises(FileNotFoundError, match=VARIABLE) as caught:
            dmf.datasets.movielens_100k()
        assert str(error) in str(caught.value)
        assert "u.data" in str(caught.value)


def test_a_download_is_checked(tmp_path, monkeypatch):
    import pooch

    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "u.data"
    file.write_text("1\t1\t5\t0\n")
    asked = {}

    def retrieve(url, **choices):
        asked.update(choices, url=url)
        return str(file)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ValueError, match="SHA-256"):
        dmf.datasets.movielens_100k()
    assert asked["url"].startswith("https://files.grouplens.org/")
    assert re.fullmatch("[0-9a-f]{64}", asked["known_hash"])
