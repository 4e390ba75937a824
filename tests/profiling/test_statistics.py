"""Percentiles and the number of samples each needs."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.profiling.statistics import PERCENTILES, distribution, needed, percentile


@pytest.mark.parametrize(("percent", "count"), [(90, 64), (99, 662)])
def test_the_samples_needed_are_those_that_loadgen_asks_for(percent, count):
    assert needed(percent) == count


@given(st.sampled_from(PERCENTILES) | st.floats(20, 99.8))
def test_one_sample_less_than_needed_leaves_more_than_one_percent_of_doubt(percent):
    share = percent / 100

    def doubt(count):
        return sum(comb(count, above) * (1 - share) ** above * share ** (count - above) for above in (0, 1))

    assert doubt(needed(percent)) < 0.01 + 1e-9 <= doubt(needed(percent) - 1) + 1e-8


def test_a_percentile_is_a_sample_and_the_slowest_stays_in():
    values = list(range(1000))
    assert [percentile(values, percent) for percent in (50, 99, 99.9, 100)] == [500, 990, 999, 999]


def test_a_percentile_with_too_few_samples_is_not_told():
    facts = distribution([1.0] * 63)
    assert facts["p50"] == 1.0
    assert facts["p90"] is facts["p99"] is facts["p99.9"] is None
    assert distribution([1.0] * 64)["p90"] == 1.0


def test_no_samples_give_no_numbers():
    facts = distribution([])
    assert facts.pop("count") == 0
    assert set(facts.values()) == {None}


@given(st.lists(st.floats(0, 1e6), min_size=11, max_size=200))
def test_nothing_is_clipped(values):
    facts = distribution(values)
    assert (facts["min"], facts["max"]) == (min(values), max(values))
    assert facts["min"] <= facts["p50"] <= facts["max"]
