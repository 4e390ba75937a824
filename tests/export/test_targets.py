"""What may be asked for with --compile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.errors import UsageError
from edgeinfer_export import targets
from edgeinfer_export.targets import Target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trt", [Target("trt")]),
        ("rtx:sm86", [Target("rtx", (86,))]),
        ("rtx:SM_86", [Target("rtx", (86,))]),
        ("rtx:sm89+sm80+sm86", [Target("rtx", (80, 86, 89))]),
        ("trt, rtx:sm86,rtx:sm86 ,rtx:sm89", [Target("trt"), Target("rtx", (86,)), Target("rtx", (89,))]),
        ("rtx", [Target("rtx", (80, 86, 89, 120))]),
    ],
)
def test_targets_are_read(text, expected):
    assert targets.parse(text) == tuple(expected)


@given(st.lists(st.sampled_from(targets.RTX_CAPABILITIES), min_size=1, unique=True))
def test_a_target_reads_back_as_it_is_written(capabilities):
    target = Target("rtx", tuple(sorted(capabilities)))
    assert targets.parse(str(target)) == (target,)


@pytest.mark.parametrize(
    "text", ["", ",", "trt,", "tensorrt", "rtx:", "trt:", "openvino", "rtx:86", "rtx:sm8", "rtx:sm86+", "rtx:sm99"]
)
def test_what_is_no_target_is_refused_with_the_known_ones(text):
    with pytest.raises(UsageError) as caught:
        targets.parse(text)
    assert "rtx:sm80+sm86+sm89" in caught.value.hint


@pytest.mark.parametrize(
    ("capability", "gpu"),
    [(72, "Jetson Xavier"), (87, "Jetson Orin"), (90, "H100"), (100, "B200"), (110, "Jetson Thor")],
)
def test_gpus_that_rtx_does_not_build_for_are_named_and_sent_to_trt(capability, gpu):
    with pytest.raises(UsageError, match=f"sm{capability} .*{gpu}.*only for sm75") as caught:
        targets.parse(f"rtx:sm{capability}")
    assert "--compile trt" in caught.value.hint


def test_tensorrt_cannot_be_told_a_gpu():
    with pytest.raises(UsageError, match="only for the GPU it runs on") as caught:
        targets.parse("trt:sm87")
    assert "build on that machine" in caught.value.hint
