"""Where an engine's time goes, layer by layer, from engines that can tell: those with `profile_layers`.

    def profile_layers(self, inputs: Tensors) -> list[Layer]

Milliseconds a run, the profiler's own cost within: the shares tell, not the sum.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeinfer.backends import Engine, Layer

CALLS = 3


def record(engine: Engine, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON: `layers`, the slowest first, each with its share of all; or None and the `reason`."""
    ask = getattr(engine, "profile_layers", None)
    if ask is None:
        return {"layers": None, "reason": "this backend does not time its layers"}
    try:
        calls: list[list[Layer]] = [ask(inputs) for _ in range(CALLS)]
    except EngineError as error:  # TensorRT 8 has no second context for an open batch
        return {"layers": None, "reason": str(error)}
    spans: dict[str, list[float]] = {}
    for layer in (layer for call in calls for layer in call):
        spans.setdefault(layer.name, []).append(layer.ms)
    middle = [layer._replace(ms=median(spans[layer.name])) for layer in calls[0]]
    whole = sum(layer.ms for layer in middle)
    ordered = sorted(middle, key=lambda layer: -layer.ms)
    rows = [{**layer._asdict(), "share": layer.ms / whole if whole else None} for layer in ordered]
    return {"layers": rows, "reason": "" if rows else "the backend's profiler named no layer"}
