"""ONNX Runtime on the GPU by its TensorRT provider, which builds its engines itself; only when asked for by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer import cache
from edgeinfer.backends import ort_gpu
from edgeinfer.errors import BackendUnavailable

if "TensorrtExecutionProvider" not in ort_gpu.PROVIDERS:
    raise BackendUnavailable("this ONNX Runtime has no TensorRT provider", hint='pip install "edgeinfer[gpu]"')


if TYPE_CHECKING:
    from edgeinfer.spec import Artifact


class Engine(ort_gpu.Engine):
    """The CUDA provider runs what TensorRT does not take."""

    precisions = ("fp16", "fp32", "int8")
    provider = "TensorrtExecutionProvider"

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:
        if artifact.precision == "int8" and artifact.flavor not in ("", "trt"):
            return f"int8 flavor {artifact.flavor} is for CPUs, TensorRT takes symmetric int8"
        return ""

    def _providers(self) -> list[tuple[str, dict[str, str]]]:
        artifact = self._spec.artifact_at(self._path)
        precision = artifact.precision if artifact else "fp32"
        options = {
            **self._where(),
            **_keeping(),
            "trt_fp16_enable": str(int(precision != "fp32")),
            "trt_int8_enable": str(int(precision == "int8")),
        }
        return [(self.provider, options), *super()._providers()]


def _keeping() -> dict[str, str]:
    """That engines are kept, where they can be: into a folder that it cannot make the provider does not load."""
    folder = cache.folder("ort_trt")
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)} if folder else {}
