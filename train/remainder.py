"""The remainder that completes classes: the least m for which ids of one class differ modulo m.

Legend: n ids; a pair is two ids of one class.
"""

import numpy as np

from ..protos.ids import Int64s

MOST_PAIRS = 2**27  # as many differences are looked at: a few seconds
TRIES = 64  # moduli that are tried where there are more


def least_remainder(groups: Int64s) -> int:
    """The least m for which (class, x mod m) is another tuple for every id x; at most n, which always is such.

    m tells the ids of a class apart when no difference of two of them is a multiple of m. Beyond `MOST_PAIRS` pairs a
    few candidates are tried, from the size of the largest class on: the m is then such, but perhaps not the least.

    Args:
        groups: (n,) int64, the class of every id, from 0 on.
    """
    n, sizes = len(groups), np.bincount(groups)
    largest = int(sizes.max())
    if int((sizes * (sizes - 1) // 2).sum()) > MOST_PAIRS:
        tried = range(largest, min(n, largest + TRIES))
        ids, crowd = np.arange(n), np.flatnonzero(groups == sizes.argmax())
        # The largest class is the hardest to tell apart, and soon looked at: it refuses most m before all ids are.
        fit = (m for m in tried if len(np.unique(crowd % m)) == largest)
        return next((m for m in fit if len(np.unique(groups * m + ids % m)) == n), n)
    differs = _differences(groups, sizes)
    return next(m for m in range(largest, n + 1) if not differs[m::m].any())


def _differences(groups: Int64s, sizes: Int64s) -> np.ndarray:
    """(n,) bool: whether two ids of one class differ by so much."""
    order = np.argsort(groups, kind="stable")  # ids of a class stand together, rising
    ends = np.repeat(np.cumsum(sizes), sizes)
    found, lag = np.zeros(len(groups), np.bool_), 1
    starts = np.flatnonzero(np.arange(len(groups)) + lag < ends)
    while len(starts):
        found[order[starts + lag] - order[starts]] = True
        lag += 1
        starts = starts[starts + lag < ends[starts]]
    return found
