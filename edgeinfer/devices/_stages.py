"""The way of a frame through a device and an engine, stage by stage; each timed on the device's own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeinfer.devices import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeinfer.backends import Engine
    from edgeinfer.devices import Device
    from edgeinfer.results import Result


class Stages:
    """Pictures -> results, and the milliseconds of each stage."""

    graph = "the CPU runs its stages one by one"

    def __init__(self, device: Device, engine: Engine) -> None:
        self._device, self._engine = device, engine

    def run(self, images: Sequence[Any], pixels: str) -> tuple[list[Result], dict[str, float]]:
        device = self._device
        marks = [device.mark()]
        tensors, placements = device.preprocess(images, pixels)
        marks.append(device.mark())
        outputs = self._engine.run(tensors)
        marks.append(device.mark())
        results = device.postprocess(outputs, placements)
        marks.append(device.mark())
        spans = zip(STAGES, marks, marks[1:])
        return results, {stage: device.elapsed_ms(start, end) for stage, start, end in spans}

    def close(self) -> None:
        """Nothing is held."""
