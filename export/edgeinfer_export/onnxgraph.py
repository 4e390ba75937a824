"""An ONNX graph of any origin: what it holds, its shapes settled, its outputs measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import declare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgeinfer.spec import TensorSpec

STANDARD = ("", "ai.onnx")
PORTABLE_OPSET = 17  # TensorRT 8.5's parser takes this much
AGAIN = "export it again, with opset 17 and a fixed input size"
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")


def opset(model: Any) -> int:
    """The version of the standard's operators it asks for."""
    return max((one.version for one in model.opset_import if one.domain in STANDARD), default=1)


def nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of the branches and loops inside it included."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def precision(model: Any) -> str:
    """What most of its weights are: fp32, fp16, or int8 where tensors are quantised."""
    if any(node.op_type in QUANTIZED for node in nodes(model.graph)):
        return "int8"
    counts = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in counts:
            counts[tensor.data_type] += int(np.prod(tensor.dims, dtype=np.int64))
    return "fp16" if counts[TensorProto.FLOAT16] > counts[TensorProto.FLOAT] else "fp32"


def parameters(model: Any) -> int:
    """How many numbers its floating-point weights hold."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return sum(int(np.prod(one.dims, dtype=np.int64)) for one in model.graph.initializer if one.data_type in floats)


def emptied(model: Any) -> Any:
    """The model without nodes, constants and inputs, all of which are yet to be put in."""
    bare = onnx.ModelProto()
    for name in ("ir_version", "producer_name", "producer_version", "doc_string"):
        setattr(bare, name, getattr(model, name))
    bare.opset_import.extend(model.opset_import)
    bare.metadata_props.extend(model.metadata_props)
    bare.graph.name, bare.graph.doc_string = model.graph.name, model.graph.doc_string
    bare.graph.output.extend(model.graph.output)
    return bare


def settle(model: Any, value: Any, spec: TensorSpec) -> None:
    """Give the input `value` its shape, and forget those inside, which may speak of open dimensions."""
    value.CopyFrom(declare(spec))
    del model.graph.value_info[:]


def image_input(model: Any, where: str) -> Any:
    """The one input that is not a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ExportError(f"{where}: it has {len(inputs)} inputs ({names}), expected one, the pictures", hint=AGAIN)
    return inputs[0]


def keep_outputs(model: Any, specs: Sequence[TensorSpec]) -> None:
    """Leave these outputs, with these shapes; what only the others needed goes too."""
    graph = model.graph
    fewer = len(graph.output) > len(specs)
    del graph.output[:]
    graph.output.extend(map(declare, specs))
    if not fewer:
        return
    needed = {spec.name for spec in specs}
    for place in range(len(graph.node) - 1, -1, -1):
        if needed.intersection(graph.node[place].output):
            needed.update(_read_by(graph.node[place]))
        else:
            del graph.node[place]
    for place in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[place].name not in needed:
            del graph.initializer[place]


def _read_by(node: Any) -> Iterator[str]:
    """The tensors a node needs, those that its branches take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            for inner in nodes(graph):
                yield from inner.input
            yield from (value.name for value in graph.output)


def session(model: Any) -> Any:
    """The model in ONNX Runtime on the CPU, silent; its errors have no common class, and name the node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # without its fallback, which would print
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def measured(model: Any, where: str, batches: set[int]) -> dict[str, tuple[int, ...]]:
    """The outputs' shapes for one picture, found by running black pictures; the batch must come out as it went in."""
    value = image_input(model, where)
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    try:
        running = session(model)
        names = [output.name for output in running.get_outputs()]
        for batch in sorted(batches):
            outputs = running.run(names, {value.name: np.zeros((batch, *dims), kind)})
            found[batch] = {name: np.shape(output) for name, output in zip(names, outputs, strict=True)}
    except Exception as error:
        raise ExportError(f"{where}: ONNX Runtime cannot run it: {first_line(error)}", hint=AGAIN) from error
    return _consistent(found, where)


def _consistent(found: dict[int, dict[str, tuple[int, ...]]], where: str) -> dict[str, tuple[int, ...]]:
    rows = [
        {name: shape[1:] if shape[:1] == (batch,) else None for name, shape in shapes.items()}
        for batch, shapes in found.items()
    ]
    for row in rows:
        for name, shape in row.items():
            if shape is None or shape != rows[0][name]:
                told = ", ".join(f"{shapes[name]} for {batch}" for batch, shapes in found.items())
                raise ExportError(f"{where}: output {name} has no row for each picture: {told}", hint=AGAIN)
    return {name: (1, *shape[1:]) for name, shape in next(iter(found.values())).items()}


def ends_in_probabilities(model: Any, output: str) -> bool:
    """Whether the output is already the softmax or sigmoid of something, whatever reshapes it afterwards."""
    makers = {name: node for node in model.graph.node for name in node.output}
    passing = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Clip", "DequantizeLinear")
    node = makers.get(output)
    while node is not None and node.op_type in (*passing, "QuantizeLinear"):
        node = makers.get(node.input[0])
    return node is not None and node.op_type in ("Softmax", "Sigmoid")


def facts_of(model: Any) -> dict[str, str]:
    """Its metadata."""
    return {prop.key: prop.value for prop in model.metadata_props}


def add_facts(model: Any, facts: Mapping[str, str]) -> None:
    """Add to its metadata, or replace there, what is not empty."""
    helper.set_model_props(model, {**facts_of(model), **{key: value for key, value in facts.items() if value}})


def first_line(error: BaseException) -> str:
    """What ONNX or ONNX Runtime says, in one line that is not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", lines[0] if lines else type(error).__name__)
    return text if len(text) <= 400 else f"{text[:400]}..."
