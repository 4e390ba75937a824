"""Ranges of calibration: every value counted, whatever came first, and each method's range what its name says."""

import numpy as np
import pytest

from edgeinfer.errors import ExportError
from edgeinfer_export.ranges import BINS, METHODS, Histogram

SHARES = np.linspace(0.1, 1, 91)


def counted(*parts):
    """A histogram of these arrays, one after the other."""
    histogram = Histogram()
    for values in parts:
        histogram.add(float(values.min()), float(values.max()), values)
    return histogram


@pytest.mark.parametrize("method", METHODS)
def test_a_range_holds_zero_and_lies_within_what_was_seen(method):
    chance = np.random.default_rng(3)
    for low, high in ((-1, 1), (2, 9), (-7, -3), (0, 1e-6), (-1e6, 3)):
        histogram = Histogram()
        for grow in (0.3, 1.0):
            values = chance.uniform(low * grow, high * grow, 5000)
            histogram.add(values.min(), values.max(), values)
        least, most, _ = histogram.range(method)
        assert min(low, 0) <= least <= 0 <= most <= max(high, 0)
        assert most - least > 0.05 * (max(high, 0) - min(low, 0))


@pytest.mark.parametrize("size", [1e-42, 1e-37, 1e37, 3e38])
def test_values_at_the_ends_of_float32_are_counted_like_others(size):
    values = np.random.default_rng(0).uniform(-1, 1, 10_000)
    plain, extreme = Histogram(), Histogram()
    for histogram, gain in ((plain, 1.0), (extreme, size)):
        sample = (values * gain).astype(np.float32)
        histogram.add(float(sample.min()), float(sample.max()), sample)
    np.testing.assert_allclose(extreme._counts.reshape(64, -1).sum(1), plain._counts.reshape(64, -1).sum(1), atol=20)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_value_far_out_does_not_decide(method):
    values = np.random.default_rng(1).normal(size=100_000)
    values[0] = 400
    histogram = Histogram()
    histogram.add(values.min(), values.max(), values)

    assert histogram.range("minmax").high == 400
    assert histogram.range(method).high < 250


def test_a_percentile_leaves_out_one_value_in_ten_thousand():
    histogram = Histogram()
    values = np.linspace(-1, 1, 200_001)
    histogram.add(-1.0, 1.0, values)

    least, most, _ = histogram.range("percentile")
    assert (least, most) == pytest.approx((-0.9998, 0.9998), abs=2e-3)


def test_bins_that_grow_lose_no_value():
    histogram = Histogram()
    for size in (1, 3, 1000, 10):
        histogram.add(-size, size, np.linspace(-size, size, 101))

    assert histogram._counts.sum() == 404
    assert histogram.range("minmax")[:2] == (-1000, 1000)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 1.0), (-1.0, np.inf), (np.nan, 1.0), (-1.0, np.nan)])
def test_values_that_are_not_finite_are_refused(low, high):
    with pytest.raises(ExportError, match="not finite"):
        Histogram().add(low, high, np.zeros(1))


@pytest.mark.parametrize(("sample", "mean"), [(np.nan, 0.0), (0.0, np.nan)])
def test_nan_that_least_and_greatest_leave_out_is_refused(sample, mean):
    with pytest.raises(ExportError, match="not finite"):
        Histogram().add(-1.0, 1.0, np.array([0.5, sample]), np.array([mean, 0.5]))


@pytest.mark.parametrize("method", METHODS)
def test_what_came_first_does_not_change_the_range(method):
    chance = np.random.default_rng(2)
    parts = [np.append(chance.laplace(0, size / 9, 4000).clip(-size, size), size) for size in (1, 4, 16)]

    assert counted(*parts).range(method)[:2] == pytest.approx(counted(*parts[::-1]).range(method)[:2])


@pytest.mark.parametrize("shift", [0, 3, -8])
def test_mse_is_the_range_that_loses_least_by_rounding_and_clipping(shift):
    values = np.random.default_rng(5).laplace(shift, 1, 20_000)
    ends = np.array([min(values.min(), 0), max(values.max(), 0)])

    def error(low, high):
        step = (high - low) / 255
        return ((np.clip(np.round((values - low) / step) * step + low, low, high) - values) ** 2).sum()

    low, high, _ = counted(values).range("mse")
    assert error(low, high) < 1.01 * min(error(*ends * share) for share in SHARES)
    assert error(low, high) < 0.97 * error(*ends)


def divergence(values, low, high, reach):
    """Kullback-Leibler's, of what the values are from what 256 levels between low and high keep of them."""
    counts, edges = np.histogram(values, BINS, (-reach, reach))
    centres = (edges[1:] + edges[:-1]) / 2
    inside = np.flatnonzero((low <= centres) & (centres <= high))
    true, kept = counts[inside].astype(float), np.zeros(len(inside))
    true[0] += counts[: inside[0]].sum()
    true[-1] += counts[inside[-1] + 1 :].sum()
    for level in range(256):
        bins = [place for place in range(len(inside)) if place * 256 // len(inside) == level]
        filled = [place for place in bins if counts[inside[place]]]
        kept[filled] = sum(counts[inside[place]] for place in filled) / max(len(filled), 1)
    true, kept = true / true.sum(), kept / kept.sum()
    seen = np.flatnonzero(true)
    return (true[seen] * np.log(true[seen] / np.maximum(kept[seen], 1e-12))).sum()


@pytest.mark.parametrize("sides", [1, 2])
def test_entropy_is_the_range_that_loses_the_least_information(sides):
    values = np.random.default_rng(4).standard_t(2, 20_000)
    values = np.abs(values) if sides == 1 else values
    ends, reach = np.array([min(values.min(), 0), values.max()]), np.abs(values).max()

    low, high, _ = counted(values).range("entropy")
    least = min(divergence(values, *ends * share, reach) for share in SHARES[::5])
    assert divergence(values, low, high, reach) < 1.01 * least
    assert high < 0.95 * ends[1]
