"""ONNX Runtime's own profile of a model, node by node."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer.backends import Layer
from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RUNS = 5
_SUFFIX = "_kernel_time"
_PRECISIONS = {"float": "fp32", "float16": "fp16", "int8": "int8", "uint8": "int8"}


def profiled(model: Path | bytes, options: Any, providers: Sequence[str], inputs: Mapping[str, Any]) -> list[Layer]:
    """Run the model in a session of its own with the profiler on; milliseconds a run, in the order they ran."""
    import onnxruntime

    with _filed():
        folder = tempfile.TemporaryDirectory(prefix="edgeinfer-layers-")
    with folder as name:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(name) / "ort")
        session = onnxruntime.InferenceSession(model, options, providers=list(providers))
        for _ in range(1 + RUNS):
            session.run(None, dict(inputs))
        file = Path(session.end_profiling())
        with _filed():
            return parse(json.loads(file.read_text(encoding="utf-8")))


@contextmanager
def _filed() -> Iterator[None]:
    """Of files alone: what a run raises stays what it is."""
    try:
        yield
    except (OSError, ValueError) as error:  # ONNX Runtime does not say that a disk is full
        hint = "check free space for temporary files (TMPDIR)"
        raise EngineError(f"ONNX Runtime's profile is not all in its file: {error}", hint=hint) from error


def parse(events: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """The profile's events -> layers; each node's first run is a warm-up and does not count."""
    spans: dict[str, list[float]] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            node = name[: -len(_SUFFIX)]
            spans.setdefault(node, []).append(event["dur"] / 1e3)
            facts[node] = event.get("args", {})
    return [
        Layer(node, sum(counted) / len(counted), facts[node].get("op_name", ""), _precision(facts[node]))
        for node, counted in ((node, all_[1:] or all_) for node, all_ in spans.items())
    ]


def _precision(facts: Mapping[str, Any]) -> str:
    """The type of the node's first output."""
    shapes = facts.get("output_type_shape") or [{}]
    kind = next(iter(shapes[0]), "")
    return _PRECISIONS.get(kind, kind)
