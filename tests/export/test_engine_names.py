"""No two engines that differ in what they are for share a file of a bundle."""

import pytest

from edgeinfer_export import engines
from edgeinfer_export.buildoptions import Options

X86, ARM = "linux-x86_64", "linux-aarch64"
TRT, RTX = Options(precision="fp16"), Options("rtx", "fp16", capabilities=(86,))
NAMES = [
    (RTX, {"sm": "86", "os": X86}, "rtx-sm86.fp16.plan"),
    (RTX, {"sm": "80+86", "os": X86}, "rtx-sm80-sm86.fp16.plan"),
    (RTX, {"sm": "86", "os": ARM}, "rtx-sm86-linux-aarch64.fp16.plan"),
    (TRT, {"sm": "86", "os": X86, "gpu": "NVIDIA A10"}, "trt-sm86-a10-10.3.0.fp16.plan"),
    (TRT, {"sm": "86", "os": X86, "gpu": "NVIDIA RTX A2000"}, "trt-sm86-rtx-a2000-10.3.0.fp16.plan"),
    (TRT, {"sm": "89", "os": X86, "gpu": "NVIDIA GeForce RTX 4090"}, "trt-sm89-rtx-4090-10.3.0.fp16.plan"),
    (
        TRT,
        {"sm": "87", "os": ARM, "gpu": "NVIDIA Jetson AGX Orin", "l4t": "36.4.3"},
        "trt-sm87-jetson-agx-orin-10.3.0.fp16.plan",
    ),
    (TRT, {"sm": "87", "os": ARM, "gpu": "Orin", "l4t": "36.4.3", "dla": "0"}, "trt-sm87-orin-dla0-10.3.0.fp16.plan"),
    (TRT, {"sm": "86", "os": X86, "compatible": "hardware"}, "trt-sm86-hardware-compatible-10.3.0.fp16.plan"),
    (
        TRT,
        {"sm": "86", "os": X86, "compatible": "hardware+version"},
        "trt-sm86-hardware-version-compatible-10.3.0.fp16.plan",
    ),
    (
        TRT,
        {"sm": "90", "os": ARM, "compatible": "hardware"},
        "trt-sm90-linux-aarch64-hardware-compatible-10.3.0.fp16.plan",
    ),
    (
        TRT,
        {"sm": "87", "os": ARM, "l4t": "36.4.3", "compatible": "hardware"},
        "trt-sm87-hardware-compatible-10.3.0.fp16.plan",
    ),
    (
        TRT,
        {"sm": "86", "os": X86, "gpu": "NVIDIA A10", "weights": "stripped"},
        "trt-sm86-a10-stripped-10.3.0.fp16.plan",
    ),
]


@pytest.mark.parametrize(("options", "facts", "name"), NAMES, ids=[name for _, _, name in NAMES])
def test_a_name_says_what_an_engine_is_for(options, facts, name):
    assert engines.file_name(options, facts, "10.3.0") == name


def test_a_name_holds_no_path_whatever_a_gpu_is_called():
    name = engines.file_name(TRT, {"sm": "86", "os": X86, "gpu": "../../NVIDIA \\ a/b\0"}, "10.3.0")
    assert name == "trt-sm86-a-b-10.3.0.fp16.plan"
