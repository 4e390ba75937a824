"""What an engine was built for, compared with what is here: every rule, and the order of engines that fit."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeinfer import keys
from edgeinfer.machine import Gpu
from edgeinfer.spec import Artifact, Batch
from helpers import specs

A10 = Gpu("86", "NVIDIA A10", "12.8")
ORIN = Gpu("87", "Orin", "12.6")
DESKTOP = keys.Here("tensorrt 10.3.0", "linux-x86_64", A10)
JETSON = keys.Here("tensorrt 10.3.0", "linux-aarch64", ORIN, "36.4.3")
SPEC = specs.detector()
BOTH = "hardware+version"


def engine(here=DESKTOP, built_with="", **target):
    facts = {"sm": here.gpu.sm, "os": here.os, "gpu": here.gpu.name, "l4t": here.l4t, "profile": "1", **target}
    held = {name: value for name, value in facts.items() if value}
    return Artifact("e.plan", "trt", "fp16", "0" * 64, built_with=built_with or here.library, target=held)


@pytest.mark.parametrize("here", [DESKTOP, JETSON])
def test_an_engine_built_here_fits_exactly(here):
    assert keys.refusal(engine(here), SPEC, here) == ""
    assert keys.caveat(engine(here), here) == ""


REFUSED = [
    ("other-gpu", "built for sm_86, this GPU is sm_87", engine(JETSON, sm="86"), JETSON),
    ("other-gpu", "built for sm_80 and sm_89, this GPU is sm_86", engine(sm="80+89"), DESKTOP),
    ("other-gpu", "built for sm_75", engine(sm="75", compatible="hardware"), DESKTOP),
    ("other-gpu", "built for sm_80", engine(sm="80", compatible="version"), DESKTOP),
    ("other-system", "built for linux-aarch64, this is linux-x86_64", engine(os="linux-aarch64"), DESKTOP),
    (
        "other-release",
        "built with tensorrt 10.7.0, here is tensorrt 10.3.0",
        engine(built_with="tensorrt 10.7.0"),
        DESKTOP,
    ),
    ("other-release", "built with tensorrt 10.7.0", engine(built_with="tensorrt 10.7.0", compatible=BOTH), DESKTOP),
    ("other-release", "built with tensorrt 8.5.3", engine(built_with="tensorrt 8.5.3", compatible=BOTH), DESKTOP),
    (
        "other-release",
        "built with tensorrt 8.6.1",
        engine(built_with="tensorrt 8.6.1", compatible=BOTH),
        DESKTOP._replace(library="tensorrt 11.4.0"),
    ),
    ("other-release", "built with tensorrt 10.1", engine(built_with="tensorrt 10.1", compatible="hardware"), DESKTOP),
    ("no-weights", "without its weights", engine(weights="stripped"), DESKTOP),
    ("no-dla", "built for DLA core 0, this machine has no DLA", engine(dla="0"), DESKTOP),
    ("other-l4t", "built for the DLA of L4T 35.4.1, this is 36.4.3", engine(JETSON, dla="0", l4t="35.4.1"), JETSON),
    ("other-batch", "built for batch 1 to 1, the model takes 1 to 8", engine(), DESKTOP),
    (
        "needs-full-library",
        "version-compatible engines only",
        engine(),
        DESKTOP._replace(library="tensorrt_lean 10.3.0"),
    ),
]


@pytest.mark.parametrize(("code", "text", "artifact", "here"), REFUSED, ids=[f"{one[0]} {one[1]}" for one in REFUSED])
def test_an_engine_that_cannot_run_here_is_refused_with_a_code_and_a_sentence(code, text, artifact, here):
    batch = Batch(1, 8) if code == "other-batch" else 1
    refusal = keys.refusal(artifact, specs.detector(batch=batch), here)
    assert refusal.code == code
    assert text in refusal
    assert str(refusal).count("\n") == 0


@pytest.mark.parametrize(
    ("artifact", "here", "facts"),
    [
        (engine(sm="89"), DESKTOP, {"built_for": "89", "here": "86"}),
        (engine(os="linux-aarch64"), DESKTOP, {"built_for": "linux-aarch64", "here": "linux-x86_64"}),
        (engine(profile="2-4-8"), DESKTOP, {"built_for": "2-4-8", "here": "1-1"}),
        (
            engine(built_with="tensorrt 10.7.0"),
            DESKTOP,
            {"built_for": "tensorrt 10.7.0", "here": "tensorrt 10.3.0"},
        ),
        (engine(dla="0"), DESKTOP, {"built_for": "0"}),
        (engine(JETSON, dla="0", l4t="35.4.1"), JETSON, {"built_for": "35.4.1", "here": "36.4.3"}),
        (engine(gpu="NVIDIA RTX A2000"), DESKTOP, {"built_for": "NVIDIA RTX A2000", "here": "NVIDIA A10"}),
        (engine(JETSON, l4t="36.4.0"), JETSON, {"built_for": "36.4.0", "here": "36.4.3"}),
    ],
)
def test_facts_of_a_refusal_or_a_caveat_are_for_programs(artifact, here, facts):
    assert (keys.refusal(artifact, SPEC, here) or keys.caveat(artifact, here)).facts == facts


def test_an_engine_of_an_onnx_that_was_replaced_is_refused():
    held = dataclasses.replace(SPEC, artifacts=(Artifact("m.onnx", "onnx", "fp16", "1" * 64),))
    assert keys.refusal(engine(onnx="2" * 64), held, DESKTOP).code == "other-model-file"
    assert keys.refusal(engine(onnx="1" * 64), held, DESKTOP) == ""
    assert keys.refusal(engine(onnx="2" * 64), SPEC, DESKTOP) == ""
    assert keys.refusal(engine(), held, DESKTOP) == ""


CAVEATS = [
    ("other-model", engine(gpu="NVIDIA RTX A2000"), DESKTOP),
    ("other-l4t", engine(JETSON, l4t="36.4.0"), JETSON),
    ("compatible", engine(sm="80", gpu="", compatible="hardware"), DESKTOP),
    ("later-release", engine(built_with="tensorrt 10.1.0", compatible="version"), DESKTOP),
    ("later-release", engine(built_with="tensorrt 8.6.1", compatible="version"), DESKTOP),
    ("later-release", engine(compatible="version"), DESKTOP._replace(library="tensorrt_lean 10.3.0")),
    (
        "later-release",
        engine(built_with="tensorrt 10.3.0", compatible="version"),
        DESKTOP._replace(library="tensorrt 11.4.0"),
    ),
    ("unknown-target", dataclasses.replace(engine(), target={}), DESKTOP),
]


@pytest.mark.parametrize(("code", "artifact", "here"), CAVEATS, ids=[one[0] for one in CAVEATS])
def test_an_engine_that_runs_here_without_being_built_here_has_a_caveat(code, artifact, here):
    assert keys.refusal(artifact, SPEC, here) == ""
    assert keys.caveat(artifact, here).code == code


def test_an_rtx_engine_runs_on_each_of_its_gpus():
    rtx = DESKTOP._replace(library="tensorrt_rtx 1.7.1.116")
    artifact = engine(rtx, sm="80+86+89", gpu="")
    assert keys.refusal(artifact, SPEC, rtx) == keys.caveat(artifact, rtx) == ""


words = st.text(max_size=8)


@given(
    st.dictionaries(
        st.sampled_from(["sm", "os", "gpu", "l4t", "dla", "compatible", "weights", "onnx", "profile"]), words
    ),
    words,
)
@example({"sm": "²", "compatible": "hardware"}, "")
@example({"sm": "8" * 5000}, "")
@example({"profile": "1-²-4"}, "")
def test_any_key_gives_a_verdict(target, built_with):
    artifact = dataclasses.replace(engine(), target=target, built_with=built_with)
    refusal = keys.refusal(artifact, SPEC, DESKTOP)
    assert bool(refusal) == bool(refusal.code)
    keys.caveat(artifact, DESKTOP)
