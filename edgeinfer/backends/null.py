"""Zeros of the declared shape: the ruler for everything around an engine, and a double for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeinfer.devices import Device
    from edgeinfer.spec import Artifact, ModelSpec


class Engine:
    """Needs no file and computes nothing."""

    device = "cpu"
    formats = ()
    precisions = ("fp32", "fp16", "int8")

    def __init__(self, path: Path, spec: ModelSpec, device: Device, **_: int) -> None:
        self._path, self._spec = path, spec
        self._outputs = {tensor.name: device.empty(tensor.at(spec.batch.max), tensor.dtype) for tensor in spec.outputs}
        for output in self._outputs.values():
            output[...] = 0

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:  # noqa: ARG003
        return ""

    def fork(self, device: Device) -> Engine:
        return Engine(self._path, self._spec, device)

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        images = len(next(iter(inputs.values())))
        return {name: output[:images] for name, output in self._outputs.items()}

    def close(self) -> None:
        self._outputs = {}
