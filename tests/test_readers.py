"""Completion problems from files, and what is said of files that are malformed."""

import numpy as np
import pytest

from fastdmf.readers import read_completion

BANNER = "%%MatrixMarket matrix coordinate real general\n"


@pytest.fixture
def write(tmp_path):
    """A function (name, text or arrays) → the path of a file."""

    def write_file(name, content):
        path = tmp_path / name
        if isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
        return path

    return write_file


def entries_of(problem):
    return list(zip(problem.rows.tolist(), problem.cols.tolist(), problem.values.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "text", "shape", "expected"),
    [
        ("u.data", "1\t2\t5\t881250949\n3\t1\t2.5\t891717742\n", (3, 2), [(0, 1, 5.0), (2, 0, 2.5)]),
        ("plain.csv", "0,1,5\n2,0,2.5\n", (3, 2), [(0, 1, 5.0), (2, 0, 2.5)]),
        ("header.csv", "user,item,rating\n0,1,5\n2,0,2.5\n", (3, 2), [(0, 1, 5.0), (2, 0, 2.5)]),
        ("spreadsheet.CSV", "\ufeffrow, col, value\r\n0, 1, 5\r\n\r\n2, 0, -1e-3\r\n", (3, 2),
         [(0, 1, 5.0), (2, 0, -1e-3)]),
        ("sparse.mtx", BANNER + "3 4 2\n1 2 0\n3 1 2.5\n", (3, 4), [(0, 1, 0.0), (2, 0, 2.5)]),
        ("integer.mtx", BANNER.replace("real", "integer") + "1 2 1\n1 2 7\n", (1, 2), [(0, 1, 7.0)]),
        ("triangle.mtx", BANNER.replace("general", "symmetric") + "2 2 2\n1 1 3\n2 1 4\n", (2, 2),
         [(0, 0, 3.0), (1, 0, 4.0), (0, 1, 4.0)]),
        ("dense.mtx", "%%MatrixMarket matrix array real general\n2 2\n1\n0\n3\n4\n", (2, 2),
         [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 0.0), (1, 1, 4.0)]),
    ],
)  # fmt: skip
def test_text_files(write, name, text, shape, expected):
    problem = read_completion(write(name, text))
    assert problem.shape == shape
    assert entries_of(problem) == expected
    assert problem.values.dtype == np.float64
    assert problem.test is None
    assert problem.truth is None


def test_npz_files(write):
    truth = np.arange(12.0).reshape(3, 4)
    bare = {"rows": [0, 2], "cols": [1, 0], "values": [1.0, 8.0]}
    test = {"test_rows": [1], "test_cols": [3], "test_values": [7.0]}
    assert read_completion(write("bare.npz", bare)).shape == (3, 2)
    assert read_completion(write("test.npz", bare | test)).shape == (3, 4)
    assert read_completion(write("shape.npz", bare | {"shape": [5, 6]})).shape == (5, 6)
    full = read_completion(write("full.npz", bare | test | {"truth": truth}), loss="half_sum")
    assert entries_of(full) == [(0, 1, 1.0), (2, 0, 8.0)]
    assert full.test is not None
    assert [part.tolist() for part in full.test] == [[1], [3], [7.0]]
    assert full.truth is not None
    assert np.array_equal(full.truth, truth)
    assert full.shape == (3, 4)
    assert full.loss == "half_sum"


def test_shape_can_be_given_where_the_file_does_not_state_it(write):
    assert read_completion(write("a.csv", "0,1,5\n"), shape=(4, 3)).shape == (4, 3)
    assert read_completion(write("a.data", "1\t2\t5\t0\n"), shape=(4, 3)).shape == (4, 3)
    bare = {"rows": [0], "cols": [1], "values": [1.0]}
    assert read_completion(write("a.npz", bare), shape=(4, 3)).shape == (4, 3)
    assert read_completion(write("a.mtx", BANNER + "4 3 1\n1 1 1\n"), shape=(4, 3)).shape == (4, 3)


def test_held_out_entries(write):
    path = write("a.csv", "".join(f"{k // 7},{k % 7},{k}\n" for k in range(70)))
    everything = entries_of(read_completion(path))
    problem = read_completion(path, test_fraction=0.3, seed=5)
    assert problem.test is not None
    held_out = list(zip(*(part.tolist() for part in problem.test), strict=True))
    assert len(held_out) == 21
    assert sorted(held_out + entries_of(problem)) == everything
    assert held_out == sorted(held_out)  # in the order of the file
    assert problem.shape == (10, 7)
    again = read_completion(path, test_fraction=0.3, seed=np.int64(5))
    other = read_completion(path, test_fraction=0.3, seed=6)
    assert again.digest == problem.digest != other.digest


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.data", "1\t2\t5\t0\n1\t3\t4\n", ["line 2", "4 fields", "separated by tabs", "1\\t3\\t4"]),
        ("a.data", "1\t2\t5\t0\n0\t3\t4\t0\n", ["line 2", "user 0", "start at 1"]),
        ("a.data", "1 2 5 0\n", ["line 1", "separated by tabs"]),
        ("a.data", "1\t2\t5\t0\n1\t2\t4\t0\n", ["line 2", "(1, 2)", "second time", "merge"]),
        ("a.csv", "", ["no entries", "row col value"]),
        ("a.csv", "row,col,value\n", ["no entries"]),
        ("a.csv", "row,col,value\n0,1,2\n\n1,x,3\n", ["line 4", "'1,x,3'", "correct or remove"]),
        ("a.csv", "1,x,3\n0,1,2\n", ["line 1", "'1,x,3'"]),  # not taken for a header
        ("a.csv", "0,1,2\n0.5,1,3\n", ["line 2", "'0.5,1,3'"]),
        ("a.csv", "0,1,2\n1,1,3,4\n", ["line 2", "3 fields"]),
        ("a.csv", "0;1;2\n", ["line 1", "separated by commas"]),
        ("a.csv", "0,1,2\n\n0,2,nan\n", ["line 3", "nan", "not finite"]),
        ("a.csv", "r,c,v\n0,1,2\n-1,2,3\n", ["line 3", "row -1", "start at 0"]),
        ("a.csv", "0,1,2\n3,0,1\n0,1,2\n", ["line 3", "(0, 1)", "second time"]),
        ("a.csv", b"0,1,2\n0,2,\xff\n", ["line 2"]),
        ("a.csv", "0,1,2\n0,2,1_0\n", ["1_0", "3 fields"]),  # a number for Python, not for NumPy
        ("a.mtx", "hello\n", ["Matrix Market", "Line 1"]),
        ("a.mtx", BANNER + "3 3 2\n1 1 0\n", ["Matrix Market", "Truncated"]),
        ("a.mtx", BANNER + "3 3 1\n4 1 2\n", ["Line 3", "out of bounds"]),
        ("a.mtx", BANNER + "3 3 0\n", ["values is empty"]),
        ("a.mtx", BANNER + "3 3 2\n1 2 0\n1 2 1\n", ["(1, 2)", "second time", "merge"]),
        ("a.mtx", BANNER + "3 3 1\n1 2 nan\n", ["(1, 2)", "nan"]),
        ("a.mtx", BANNER.replace("real", "complex") + "3 3 1\n1 2 1 1\n", ["complex", "real"]),
        ("a.mtx", BANNER.replace("real", "pattern") + "3 3 1\n1 2\n", ["pattern", "real"]),
        ("a.npz", b"no archive", ["NPZ", "numpy.savez"]),
        ("a.npz", b"", ["NPZ", "numpy.savez"]),
        ("a.npz", b"PK\x03\x04 cut short", ["NPZ", "numpy.savez"]),
        ("a.txt", "0,1,2\n", ["'.txt'", ".csv"]),
    ],
)  # fmt: skip
def test_malformed_files(write, name, text, said):
    path = write(name, text)
    with pytest.raises(ValueError, match=r"a\.") as refusal:
        read_completion(path)
    for fragment in (str(path), *said):
        assert fragment in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": None}, ["lacks values"]),
        ({"test_vals": [1.0]}, ["unknown test_vals", "test_values"]),
        ({"test_rows": [0]}, ["test_rows only", "test_cols"]),
        ({"rows": [0, 9]}, ["rows[1] = 9", "start at 0"]),
        ({"rows": [0.0, 1.0]}, ["rows must hold integers"]),
        ({"rows": [[0], [1]]}, ["rows must be a vector"]),
        ({"cols": [0]}, ["one length"]),
        ({"values": [1.0, np.inf]}, ["values holds inf"]),
        ({"values": ["a", "b"]}, ["values must hold real numbers"]),
        ({"values": np.array([None, None])}, ["NPZ", "allow_pickle"]),
        ({"rows": [0, 0], "cols": [1, 1]}, ["(0, 1)", "twice", "merge"]),
        ({"shape": [3]}, ["shape must hold two positive integers"]),
        ({"shape": [3.0, 3.0]}, ["shape must hold two positive integers"]),
        ({"shape": [3, 0]}, ["shape must hold two positive integers"]),
        ({"truth": np.zeros((2, 2))}, ["truth has shape (2, 2)"]),
        ({"truth": np.zeros(3)}, ["truth must have 2 dimension"]),
    ],
)
def test_malformed_npz(write, changes, said):
    content = {"rows": [0, 1], "cols": [1, 2], "values": [1.0, 2.0], "shape": [3, 4]} | changes
    path = write("a.npz", {name: value for name, value in content.items() if value is not None})
    with pytest.raises(ValueError, match=r"a\.npz") as refusal:
        read_completion(path)
    for fragment in (str(path), *said):
        assert fragment in str(refusal.value)


def test_single_array_instead_of_an_archive(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz is not an NPZ file.*single array"):
        read_completion(tmp_path / "a.npz")


def test_options_that_do_not_fit_the_file(write):
    path = write("a.csv", "0,1,2\n1,1,3\n")
    with pytest.raises(ValueError, match="test_fraction must be below 1"):
        read_completion(path, test_fraction=1.0)
    with pytest.raises(ValueError, match="non-negative"):
        read_completion(path, test_fraction=-0.1)
    with pytest.raises(ValueError, match=r"a\.csv: the test fraction 0.1 of 2 entries is 0"):
        read_completion(path, test_fraction=0.1)
    with pytest.raises(ValueError, match="leave at least one"):
        read_completion(path, test_fraction=0.9)
    with pytest.raises(ValueError, match=r"^loss must be one of"):
        read_completion(path, loss="huber")
    with pytest.raises(ValueError, match=r"line 2: the row 1 is outside 0 … 0"):
        read_completion(path, shape=(1, 2))
    with pytest.raises(TypeError, match="shape must be a pair"):
        read_completion(path, shape=(1, 2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"its shape is \(4, 3\), not \(5, 5\)"):
        read_completion(write("a.mtx", BANNER + "4 3 1\n1 1 1\n"), shape=(5, 5))
    stated = {"rows": [0], "cols": [0], "values": [1.0], "shape": [4, 3]}
    with pytest.raises(ValueError, match=r"its shape is \(4, 3\), not \(5, 5\)"):
        read_completion(write("a.npz", stated), shape=(5, 5))
    test = {
        "rows": [0],
        "cols": [0],
        "values": [1.0],
        "test_rows": [0],
        "test_cols": [1],
        "test_values": [1.0],
    }
    with pytest.raises(ValueError, match="its own test entries"):
        read_completion(write("a.npz", test), test_fraction=0.5)


@pytest.mark.parametrize("suffix", ["data", "csv", "mtx", "npz"])
def test_missing_files(tmp_path, suffix):
    with pytest.raises(FileNotFoundError, match=f"nowhere.{suffix}"):
        read_completion(tmp_path / f"nowhere.{suffix}")


@pytest.mark.parametrize("values", [np.ones(3), np.ones((2, 1))])
def test_arrays_that_do_not_fit_are_refused_before_some_are_held_out(write, values):
    path = write("a.npz", {"rows": [0, 1], "cols": [1, 0], "values": values})
    with pytest.raises(ValueError, match=r"a\.npz: rows, cols and values must be vectors of one length"):
        read_completion(path, test_fraction=0.5)


@pytest.mark.parametrize(("seed", "kind"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_seeds_of_the_draw_are_checked(write, seed, kind):
    with pytest.raises(kind, match=f"seed must .* not {seed}"):
        read_completion(write("a.csv", "0,0,1\n0,1,2\n"), test_fraction=0.5, seed=seed)
