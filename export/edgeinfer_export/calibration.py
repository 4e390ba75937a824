"""Calibration: the model runs on real pictures, prepared by the runtime itself; its tensors' values are counted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeinfer import sources
from edgeinfer.devices.cpu import Device
from edgeinfer.errors import ExportError, SourceError
from edgeinfer_export import onnxgraph, precision, quantize
from edgeinfer_export.forms import Ranges
from edgeinfer_export.ranges import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from edgeinfer.datasets import Dataset
    from edgeinfer.spec import ModelSpec

# of a tensor, about so many values of each picture are counted; the least and greatest are of all
SAMPLE = 1 << 15


def ranges(
    model: Any, spec: ModelSpec, dataset: Dataset, method: str, on_error: sources.OnError = sources.refuse
) -> Ranges:
    """The ranges, chosen by `method`, of all that int8 in any flavour quantises.

    Pictures that cannot be decoded go to `on_error`. Raises ExportError, and SourceError if none can.
    """
    faults: list[SourceError] = []
    seen = observe(model, spec, quantize.points(model), _decoded(dataset, faults.append))
    sources.leave_out(faults, len(dataset), on_error)
    return Ranges({name: one.range(method) for name, one in seen.items()}, method, len(dataset) - len(faults))


def _decoded(dataset: Dataset, on_error: sources.OnError) -> Iterator[Any]:
    for sample in dataset.samples:
        try:
            yield sources.picture(sample.path).image
        except SourceError as error:
            on_error(error)


def observe(model: Any, spec: ModelSpec, tensors: Iterable[str], pictures: Iterable[Any]) -> dict[str, Histogram]:
    """Run `model` on pictures (h, w, 3) uint8 BGR, one after the other, and count the values of these tensors.

    Memory does not grow with the number of pictures, and little with that of tensors. Raises ExportError.
    """
    wanted = set(tensors)
    order = [*(value.name for value in model.graph.input), *(name for node in model.graph.node for name in node.output)]
    names = [name for name in order if name in wanted]
    probed, outputs = _probed(model, names)
    try:
        session = onnxgraph.session(probed)
    except Exception as error:
        raise ExportError(f"calibration: ONNX Runtime refused the model: {error}", hint="export it again") from error
    device, seen = Device(spec), {name: Histogram() for name in names}
    for picture in pictures:
        inputs, _ = device.preprocess([picture] * spec.batch.min)
        found = session.run(outputs, dict(inputs))
        _count(seen, names, found)
    device.close()
    return seen


def _count(seen: dict[str, Histogram], names: Sequence[str], found: Sequence[Any]) -> None:
    for place, name in enumerate(names):
        low, high, sample, means = found[4 * place : 4 * place + 4]
        try:
            seen[name].add(float(low), float(high), sample, means.mean(axis=(0, 2, 3)) if means.ndim == 4 else None)
        except ExportError as error:
            raise ExportError(f"calibration: tensor {name} holds {error}", hint=error.hint) from error


def _probed(model: Any, names: Sequence[str]) -> tuple[Any, list[str]]:
    """The model with four outputs for each tensor: its least and greatest value, a sample, and each channel's mean."""
    shapes = precision.inferred(model)
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    graph = probed.graph
    del graph.output[:]
    outputs = []
    for name in names:
        least, most, sample, means = (f"{name}.probe.{part}" for part in ("least", "most", "sample", "means"))
        graph.node.append(helper.make_node("ReduceMin", [name], [least], keepdims=0))
        graph.node.append(helper.make_node("ReduceMax", [name], [most], keepdims=0))
        _sample(graph, name, sample, _step(shapes[name]))
        # ReduceMean's axes have moved from attribute to input between versions of the standard
        mean = "GlobalAveragePool" if len(shapes[name].shape.dim) == 4 else "Identity"
        graph.node.append(helper.make_node(mean, [name], [means]))
        outputs += [least, most, sample, means]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    return probed, outputs


def _step(kind: Any) -> int:
    """Every how many-th row and column of a feature map is taken."""
    sides = [dim.dim_value for dim in kind.shape.dim]
    return math.ceil(math.sqrt(max(1, math.prod(sides[1:])) / SAMPLE)) if len(sides) == 4 and all(sides[2:]) else 1


def _sample(graph: Any, name: str, out: str, step: int) -> None:
    if step == 1:
        graph.node.append(helper.make_node("Identity", [name], [out]))
        return
    values = {"from": [0, 0], "to": [2**31, 2**31], "axes": [2, 3], "steps": [step, step]}
    inputs = [f"{out}.{part}" for part in values]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"{out}.{part}") for part, value in values.items()
    )
    graph.node.append(helper.make_node("Slice", [name, *inputs], [out]))
