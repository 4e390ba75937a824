"""What NVIDIA's builder says when it fails, turned into a reason and a remedy. Imports on Python 3.9."""

from __future__ import annotations

import re

from edgeinfer.backends import _nvlibrary
from edgeinfer.errors import ExportError
from edgeinfer_export.targets import RUNTIME_NMS

SYMMETRIC = "export int8 again: the `trt` flavour has symmetric int8 weights and activations, and unquantised biases"
GEMM = "leave sm75 out, or use --precision fp16; a fully connected layer can be written as a 1x1 convolution"
MEMORY = "stop other programs that use memory, or lower --workspace"
# words of the library -> what to do about them; the first that is found is told
REMEDIES = (
    (r"within workspace limit|workspace size", "raise --workspace"),
    (r"[Oo]ut ?[Oo]f ?[Mm]emory|(insufficient|not enough)( GPU| device)? memory|bad_alloc|MemoryError", MEMORY),
    (r"FP32 GEMM is not supported", GEMM),
    (r"NonMaxSuppression|NonZero|EfficientNMS|is of type NMS", RUNTIME_NMS),
    (r"[Pp]lugin", "edgeinfer uses no TensorRT plugins: export the model without them"),
    (r"[Qq]uantizeLinear|[Zz]ero.?point|quantized", SYMMETRIC),
    (r"Failed to parse the ONNX|DESERIALIZE", "the file is not ONNX or is cut off: export it again"),
    (r"unsupported node|has no runners", "export the model without this operator, or run it in ONNX Runtime"),
)
OTHERWISE = "--log FILE keeps all that the library says"
# follows other errors on machines without a GPU, where it means nothing
_NO_GPU = re.compile(r"cudaError 35")


def failure(what: str, messages: list[str]) -> ExportError:
    """The error for a step that failed, quoting the library's last words and saying what to do about them."""
    lines = [_nvlibrary.plain(line) for message in messages for line in message.splitlines()]
    said = list(dict.fromkeys(line for line in lines if line))
    telling = [line for line in said if not _NO_GPU.search(line)] or said
    remedy = next((hint for words, hint in REMEDIES if re.search(words, "\n".join(said))), OTHERWISE)
    return ExportError(f"{what}: {_nvlibrary.quoted(telling)}", hint=remedy)
