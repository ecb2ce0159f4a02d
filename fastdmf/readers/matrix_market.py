"""Matrix Market files."""

from pathlib import Path

import numpy as np

from fastdmf.readers.entries import Entries, Shape, first_repeat


def read_matrix_market(path: Path, shape: Shape | None) -> Entries:
    """What is stored is observed, stored zeros too; both triangles of a symmetric file."""
    import scipy.io
    import scipy.sparse

    with open(path, "rb"):
        pass  # SciPy says of a missing file that it is malformed
    try:
        n, p, _, _, field, _ = scipy.io.mminfo(path)
        matrix = scipy.io.mmread(path)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a complete Matrix Market file: {error}") from None
    if field in ("pattern", "complex"):
        raise ValueError(f"{path} is a {field} file; observed entries need real values: write it as real")
    if isinstance(matrix, np.ndarray):
        rows, cols = (index.ravel() for index in np.indices((n, p)))
        values = matrix.ravel()
    else:
        stored = scipy.sparse.coo_array(matrix)
        (rows, cols), values = stored.coords, stored.data
    if shape not in (None, (n, p)):
        raise ValueError(f"{path} says that its shape is {(n, p)}, not {shape}: leave out the shape")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        k = bad[0]
        raise ValueError(
            f"{path}: the value at ({rows[k] + 1}, {cols[k] + 1}) is {values[k]}; leave out entries that are "
            "not observed"
        )
    twice = first_repeat(rows, cols)
    if twice is not None:
        raise ValueError(
            f"{path}: the entry ({rows[twice] + 1}, {cols[twice] + 1}) occurs a second time; merge repeated "
            "entries first"
        )
    return Entries((rows, cols, values), (n, p))
