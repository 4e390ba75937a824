"""Rows (n, 6) x1 y1 x2 y2 score class of two programs: the same, but that near scores may stand in another order."""

import numpy as np


def strangers(rows, others, pixels, scores):
    """Rows that are not among the others, but for those as good as the worst of these, which chance may leave out."""
    sure = rows[rows[:, 4] > others[:, 4].min() + scores]
    limits = np.array([pixels] * 4 + [scores, 0])
    found = (np.abs(sure[:, None] - others[None]) <= limits).all(axis=2).any(axis=1)
    return sure[~found]


def assert_same(rows, others, *, pixels, scores):
    """Each picture's rows (n, boxes, 6) are the other's."""
    assert rows.shape == others.shape
    for one, other in zip(rows, others, strict=True):
        assert np.abs(one[:, 4] - other[:, 4]).max() <= scores
        for first, second in ((one, other), (other, one)):
            missing = strangers(first, second, pixels, scores)
            assert not len(missing), f"{len(missing)} rows have no counterpart, first {missing[0]}"
