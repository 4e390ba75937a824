"""An ONNX file of any origin, checked: weights inside, operators of the standard, shapes settled, outputs measured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from edgeinfer import onnxfile
from edgeinfer.errors import BundleError, ExportError
from edgeinfer.inside import safe_relative
from edgeinfer_export.graphs.ops import declare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgeinfer.spec import TensorSpec

STANDARD = ("", "ai.onnx")
ONE_FILE = (1 << 31) - (1 << 20)  # what protobuf writes into one file, and room for the graph
APART = 4  # the version of the file format since which constants are no inputs
OUR_OPSET = 13  # since which squeezing and quantisation are written as here
PORTABLE_OPSET = 17  # TensorRT 8.5's parser takes this much
READABLE = "check its path and permissions"
BESIDE = "put the weights beside the ONNX file, and export it again"
AGAIN = "export it again, with opset 17 and a fixed input size"
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger")


def read(path: Path) -> Any:
    """The model in this file: weights inside, constants in one place, no functions of its own. Raises ExportError."""
    _check_external(path)
    try:
        model = onnx.load(path, load_external_data=False)
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        # protobuf, the checker and the reader of external data each have their own errors
        raise ExportError(f"{path.name} cannot be read as ONNX: {_first_line(error)}", hint=AGAIN) from error
    if not all(isinstance(text, str) for text in _texts(model)):
        raise ExportError(f"{path.name} cannot be read as ONNX: a text in it is not UTF-8", hint=AGAIN)
    if not model.graph.node:
        raise ExportError(f"{path.name} holds no graph", hint=AGAIN)
    if model.functions:
        model = _inlined(model, path.name)
    if model.ByteSize() > ONE_FILE:
        raise ExportError(
            f"{path.name} with its weights is above the 2 GiB that one ONNX file can hold", hint="export it in fp16"
        )
    _check_operators(model, path.name)
    _gather_constants(model)
    return model


def _gather_constants(model: Any) -> None:
    """Nodes that give a constant become initializers, and none of these stays an input, as it is in old files."""
    graph = model.graph
    taken = {one.name for one in (*graph.output, *graph.initializer)}
    for place in range(len(graph.node) - 1, -1, -1):
        tensor = _constant(graph.node[place])
        if tensor is not None and tensor.name not in taken:
            graph.initializer.append(tensor)
            del graph.node[place]
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, APART)


def _constant(node: Any) -> Any:
    """The tensor, by its name in the graph, that a node gives; None where it computes it, or gives no numbers."""
    if node.op_type != "Constant" or len(node.attribute) != 1 or len(node.output) != 1:
        return None
    (one,) = node.attribute
    if one.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(one.t)
        tensor.name = node.output[0]
        return tensor
    floats, ints = {"value_float": one.f, "value_floats": one.floats}, {"value_int": one.i, "value_ints": one.ints}
    for values, kind in ((floats, np.float32), (ints, np.int64)):
        if one.name in values:
            return numpy_helper.from_array(np.array(values[one.name], kind), node.output[0])
    return None


def _check_external(path: Path) -> None:
    """Weights may lie in other files, but only in the ONNX file's own folder or below."""
    if path.exists() and not path.is_file():  # to read a pipe could take for ever
        raise ExportError(f"{path} is not a file, expected an ONNX model", hint=READABLE)
    try:
        names = onnxfile.external_files(path)
    except BundleError as error:
        raise ExportError(str(error), hint=AGAIN) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be opened: {error.strerror}", hint=READABLE) from error
    try:
        for name in names:
            safe_relative(name, "external file")
    except BundleError as error:
        raise ExportError(f"{path.name} keeps weights outside its folder: {error}", hint=BESIDE) from error
    folder = path.parent.resolve()
    for name in names:
        file = path.parent / name
        if not file.is_file():
            raise ExportError(f"{path.name} keeps weights in {name}, which is not there", hint="copy it there too")
        if not file.resolve().is_relative_to(folder):
            raise ExportError(f"{path.name} keeps weights in {name}, which leads outside its folder", hint=BESIDE)


def _inlined(model: Any, name: str) -> Any:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise ExportError(f"{name}: its functions cannot be put into its graph: {error}", hint=AGAIN) from error


def opset(model: Any) -> int:
    """The version of the standard's operators it asks for."""
    return max((one.version for one in model.opset_import if one.domain in STANDARD), default=1)


def raised(model: Any, name: str) -> Any:
    """The model with operators that graphs can be joined to and quantised, in the version of the standard they need."""
    from onnx import version_converter

    if (own := opset(model)) >= OUR_OPSET:
        return model
    try:
        later = version_converter.convert_version(model, OUR_OPSET)
    except Exception as error:
        raise ExportError(
            f"{name} has opset {own}, which cannot be raised to {OUR_OPSET}: {_first_line(error)}", hint=AGAIN
        ) from error
    _gather_constants(later)
    return later


def _check_operators(model: Any, name: str) -> None:
    """Every operator must be one of the standard in the version asked for, and end; the first that is not is named."""
    version, known = opset(model), onnx.defs.onnx_opset_version()
    if not 7 <= version <= known:
        raise ExportError(f"{name} has opset {version}, expected 7 to {known}", hint=AGAIN)
    for node in _nodes(model.graph):
        where = f"node {node.name or (node.output or [node.op_type])[0]}"
        if node.domain not in STANDARD:
            raise ExportError(
                f"{name}: {where} is the operator {node.op_type} of {node.domain}, which is not in the ONNX standard",
                hint="export the model without plugins, custom operators and runtime-specific optimisation",
            )
        if not onnx.defs.has(node.op_type, version):
            raise ExportError(
                f"{name}: {where} is the operator {node.op_type}, which opset {version} does not have",
                hint="export the model without plugins and custom operators",
            )
        if node.op_type == "Loop":
            raise ExportError(
                f"{name}: {where} is a Loop, of which only running it shows whether it ends",
                hint="export the model without loops: traced, and its suppression left to edgeinfer",
            )


def _texts(model: Any) -> Iterator[object]:
    """Every text that is read, compared or written again; those that are not UTF-8 come as bytes, or raise."""
    try:
        yield from (model.producer_name, *(one.domain for one in model.opset_import))
        yield from (text for prop in model.metadata_props for text in (prop.key, prop.value))
        yield from (value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer))
        for node in _nodes(model.graph):
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    except UnicodeDecodeError:
        yield None


def _nodes(graph: Any) -> Iterator[Any]:
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
    if any(node.op_type in QUANTIZED for node in _nodes(model.graph)):
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
            for inner in _nodes(graph):
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
        raise ExportError(f"{where}: ONNX Runtime cannot run it: {_first_line(error)}", hint=AGAIN) from error
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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", lines[0] if lines else type(error).__name__)
    return text if len(text) <= 400 else f"{text[:400]}..."
