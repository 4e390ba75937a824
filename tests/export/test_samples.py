"""Golden samples as they are recorded: what they ask of an engine, and what is said where they ask nothing."""

import numpy as np
import pytest

from edgeinfer import golden
from edgeinfer.results import Detections
from edgeinfer.spec import Size
from edgeinfer_export import samples
from edgeinfer_export.export import Options, export
from edgeinfer_export.graphs import Variant
from helpers.scenery import SOURCE


def detected(*scores):
    """One box of 20 pixels for each score, side by side."""
    boxes = np.array([(30 * at, 0, 30 * at + 20, 20) for at in range(len(scores))], np.float32).reshape(-1, 4)
    found = np.array(scores, np.float32)
    return Detections(boxes, found, np.zeros(len(scores), np.int32), ("red",), Size(400, 400), {})


@pytest.mark.parametrize(
    ("found", "least"),
    [((0.9, 0.3), 0.25), ((0.35, 0.3), 0.05), ((0.18, 0.06), 0.01), ((0.1,), 0.05), ((0.02,), 0.01), ((), 0.01)],
)
def test_a_sample_is_recorded_where_int8_too_must_find_something_of_it(found, least):
    sample = samples.record("a.png", detected(*found), samples.SCORES)
    assert sample.score == least
    assert len(sample.expect) == sum(score > least for score in found)
    nothing = golden.compare(sample, detected(), "int8")
    assert nothing.passed == (max(found, default=0) < 0.16)


@pytest.mark.parametrize(("score", "told"), [(0.25, False), (0.999, True)])
def test_an_export_says_when_its_samples_would_let_a_broken_engine_pass(tmp_path, score, told):
    warnings = []
    variant = Variant(nms=True, score=score)
    export(SOURCE, tmp_path / "b", Options(Size(256, 320), variant=variant), warn=warnings.append)
    assert any("golden samples that fp32 must find again" in one for one in warnings) == told
