"""An ONNX file of any origin, read and checked: weights inside, constants in one place, operators of the standard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeinfer import onnxfile, regular
from edgeinfer.errors import BundleError, ExportError
from edgeinfer_export.onnxgraph import AGAIN, STANDARD, first_line, nodes, opset, session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE_FILE = (1 << 31) - (1 << 20)  # what protobuf writes into one file, and room for the graph
APART = 4  # the version of the file format since which constants are no inputs
OUR_OPSET = 13  # since which squeezing and quantisation are written as here
READABLE = "check its path and permissions"
BESIDE = "put the weights beside the ONNX file, and export it again"


def read(path: Path) -> Any:
    """The model in this file: weights inside, constants in one place, no functions of its own. Raises ExportError."""
    _check_external(path)
    try:
        model = onnx.load(path)
    except Exception as error:
        # protobuf, the checker and the reader of external data each have their own errors
        raise ExportError(f"{path.name} cannot be read as ONNX: {first_line(error)}", hint=AGAIN) from error
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


def raised(model: Any, name: str) -> Any:
    """The model with operators that graphs can be joined to and quantised, in the version of the standard they need."""
    from onnx import version_converter

    if (own := opset(model)) >= OUR_OPSET:
        return model
    refused = f"{name} has opset {own}, which cannot be raised to {OUR_OPSET}"
    try:
        later = version_converter.convert_version(model, OUR_OPSET)
        _gather_constants(later)
        agreed = _agree(model, later)
    except Exception as error:
        # of the converter and of ONNX Runtime, which have no common one
        raise ExportError(f"{refused}: {first_line(error)}", hint=AGAIN) from error
    if not agreed:
        raise ExportError(f"{refused}: it would give other numbers", hint=AGAIN)
    return later


def _agree(one: Any, other: Any) -> bool:
    """Whether two models give the same for noise; the converter takes some enlargements for others."""
    (value,) = one.graph.input
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    most = 256 if np.issubdtype(kind, np.integer) else 1
    noise = (np.random.default_rng(0).random(shape) * most).astype(kind)
    found = [session(model).run(None, {value.name: noise}) for model in (one, other)]
    with np.errstate(invalid="ignore"):
        return all(np.abs(a - b).max(initial=0) <= 1e-5 * np.abs(a).max(initial=0) for a, b in zip(*found, strict=True))


def _check_external(path: Path) -> None:
    """Weights may lie in other files, but only in the ONNX file's own folder or below."""
    try:
        regular.check(path)
        names = onnxfile.external_files(path)
    except BundleError as error:
        raise ExportError(str(error), hint=AGAIN) from error
    except OSError as error:
        raise ExportError(f"{path} cannot be opened: {error.strerror}", hint=READABLE) from error
    for name in names:
        file = path.parent / name
        if not file.is_file():
            raise ExportError(f"{path.name} keeps weights in {name!r}, which is not there", hint=BESIDE)
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise ExportError(f"{path.name} keeps weights in {name!r}, which leads outside its folder", hint=BESIDE)


def _inlined(model: Any, name: str) -> Any:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise ExportError(f"{name}: its functions cannot be put into its graph: {error}", hint=AGAIN) from error


def _texts(model: Any) -> Iterator[object]:
    """Every text that is read, compared or written again; those that are not UTF-8 come as bytes, or raise."""
    try:
        yield from (model.producer_name, *(one.domain for one in model.opset_import))
        yield from (text for prop in model.metadata_props for text in (prop.key, prop.value))
        yield from (value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer))
        for node in nodes(model.graph):
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    except UnicodeDecodeError:
        yield None


def _check_operators(model: Any, name: str) -> None:
    """Every operator must be one of the standard in the version asked for, and end; the first that is not is named."""
    version, known = opset(model), onnx.defs.onnx_opset_version()
    if not 7 <= version <= known:
        raise ExportError(f"{name} has opset {version}, expected 7 to {known}", hint=AGAIN)
    for node in nodes(model.graph):
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


def _gather_constants(model: Any) -> None:
    """Nodes that give a constant become initializers, and none of these stays an input, as it is in old files."""
    graph = model.graph
    taken = {one.name for one in (*graph.output, *graph.initializer)}
    for place in range(len(graph.node) - 1, -1, -1):
        tensor = _constant(graph.node[place])
        if tensor is not None and tensor.name not in taken:
            graph.initializer.append(tensor)
            del graph.node[place]
    _drop_copies(graph)
    names = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in names]
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, APART)


def _drop_copies(graph: Any) -> None:
    """Who reads the Identity of a constant reads that: of equal weights PyTorch writes one, and Identities of it."""
    parts = [part for node in nodes(graph) for one in node.attribute for part in (one.g, *one.graphs)]
    held = {tensor.name: tensor.name for tensor in graph.initializer}
    fixed = {*held, *(value.name for part in (graph, *parts) for value in part.output)}
    kept = []
    for node in graph.node:
        alone = node.op_type == "Identity" and len(node.input) == len(node.output) == 1
        if alone and node.input[0] in held and node.output[0] not in fixed:
            held[node.output[0]] = held[node.input[0]]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
        for node in nodes(graph):
            node.input[:] = [held.get(name, name) for name in node.input]


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
