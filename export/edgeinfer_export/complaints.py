"""What NVIDIA's builder says when it fails, turned into a reason and a remedy. Imports on Python 3.9."""

from __future__ import annotations

import re

from edgeinfer.errors import ExportError

RUNTIME_NMS = "export it with --nms runtime: the boxes are then suppressed by edgeinfer itself, on every device"
SYMMETRIC = "export int8 again: the `trt` flavour has symmetric int8 weights and activations, and unquantised biases"
# words of the library -> what to do about them; the first that matches is told
REMEDIES = (
    (r"FP32 GEMM is not supported", "leave sm75 out, use --precision fp16, or write the Gemm as a 1x1 convolution"),
    (r"NonMaxSuppression|NonZero|EfficientNMS", RUNTIME_NMS),
    (r"[Pp]lugin", "edgeinfer uses no TensorRT plugins: export the model without them"),
    (r"DequantizeLinear.*Int32|[Zz]ero.?point|QuantizeLinear|quantized", SYMMETRIC),
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|(insufficient|not enough) (GPU |device )?memory|bad_alloc",
        "stop other programs that use memory, or lower --workspace",
    ),
    (r"opset|IR version", "export the ONNX with a lower opset (17 runs on every release)"),
)
_PREFIX = re.compile(r"^\s*(\[[^\]]*\]\s*)+|^\S+\.cpp:+\S*\s*")


def failure(what: str, messages: list[str]) -> ExportError:
    """The error for a step that failed, quoting the library's last words and saying what to do about them."""
    said = [_PREFIX.sub("", one).strip() for one in messages]
    text = "\n".join(said)
    remedy = next((hint for words, hint in REMEDIES if re.search(words, text)), "--log FILE keeps all it says")
    telling = [one.split("\n")[0] for one in said if one]
    quoted = "; ".join(dict.fromkeys(telling[-3:])) or "the library does not say why"
    return ExportError(f"{what}: {quoted}", hint=remedy)
