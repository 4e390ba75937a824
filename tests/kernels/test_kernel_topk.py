"""The classes kernel against the CPU device."""

import numpy as np
import pytest

from edgeinfer.devices import cpu
from edgeinfer.errors import EngineError
from edgeinfer.spec import Placement, Size, TopK
from kernels.specs import classes_spec

ACTIVATIONS = ("softmax", "sigmoid", "none")


PLACE = Placement(Size(8, 8), Size(8, 8), 0, 0)


def on_the_cpu(spec, logits):
    return cpu.Device(spec).postprocess({"logits": logits}, [PLACE] * len(logits))


def check(kernels, decode, logits, **how):
    spec = classes_spec(decode, logits.shape[1], str(logits.dtype))
    results, expected = kernels.classify(spec, logits, **how), on_the_cpu(spec, logits)

    assert results["status"].tolist() == [0] * len(logits)
    assert results["count"].tolist() == [len(one) for one in expected]
    np.testing.assert_array_equal(results["rows"]["class_id"], [one.class_ids for one in expected])
    # exp is right to some units in the last place, and float32 sums of so many are added in another order
    np.testing.assert_allclose(results["rows"]["score"], [one.scores for one in expected], rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_random_outputs_give_what_the_cpu_device_gives(kernels, activation, dtype):
    rng = np.random.default_rng(1)
    for _ in range(25):
        classes, k = int(rng.choice([1, 2, 10, 255, 256, 257, 1000])), int(rng.choice([1, 5, 20]))
        logits = rng.normal(0, 4, (int(rng.integers(1, 4)), classes)).astype(dtype)
        check(kernels, TopK(k, activation), logits, seed=int(rng.integers(1, 99)))


def test_equal_scores_put_the_lower_class_first(kernels):
    rng = np.random.default_rng(2)
    for _ in range(10):
        check(kernels, TopK(20, "none"), rng.integers(-1, 2, (1, 300)).astype(np.float32))


def test_minus_zero_is_zero(kernels):
    logits = np.random.default_rng(2).choice(np.array([0.0, -0.0], np.float32), (1, 60))

    check(kernels, TopK(60, "none"), logits)


def test_twenty_two_thousand_classes(kernels):
    check(kernels, TopK(100), np.random.default_rng(3).normal(0, 3, (2, 21841)).astype(np.float32))


@pytest.mark.parametrize("value", [-np.inf, 3e38, -3e38])
def test_extreme_values_are_ordered(kernels, value):
    logits = np.array([[0, value, 1, -1]], np.float32)

    check(kernels, TopK(4, "none"), logits)


@pytest.mark.parametrize("place", [0, 300, 999])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_the_cpu_device_refuses_is_reported_for_its_picture_only(kernels, value, place):
    logits = np.random.default_rng(4).normal(size=(2, 1000)).astype(np.float32)
    logits[1, place] = value
    spec = classes_spec(TopK(5), 1000)
    results = kernels.classify(spec, logits)

    assert results["status"].tolist() == [0, 1]
    assert results["count"].tolist() == [5, 0]
    with pytest.raises(EngineError):
        on_the_cpu(spec, logits)


def test_the_order_of_threads_does_not_show(kernels):
    logits = np.random.default_rng(5).normal(size=(3, 1000)).astype(np.float32)
    spec = classes_spec(TopK(5), 1000)

    assert len({kernels.classify(spec, logits, seed=seed).tobytes() for seed in range(5)}) == 1
