"""A bundle as a Triton Inference Server model repository: one model, or an ensemble that takes frames and gives boxes.

    NAME/config.pbtxt  NAME/labels.txt  NAME/1/model.onnx     (or model.plan)

An ensemble NAME has its parts beside it: NAME_frames and NAME_boxes, small ONNX models of our own, round NAME_network.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import keys
from edgeinfer.bundle import writing
from edgeinfer.errors import ExportError, UsageError
from edgeinfer.spec import PRECISIONS, Batch, Boxes
from edgeinfer_export.graphs import described, frames, suppress
from edgeinfer_export.pbtxt import Word, text

if TYPE_CHECKING:
    from edgeinfer.bundle import Bundle
    from edgeinfer.spec import Artifact, ModelSpec, TensorSpec

CONFIG, LABELS = "config.pbtxt", "labels.txt"
# Triton's name for the library that runs a format, and for its file
BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "trt": ("tensorrt", "model.plan")}
TYPES = {
    "float32": Word("TYPE_FP32"),
    "float16": Word("TYPE_FP16"),
    "uint8": Word("TYPE_UINT8"),
    "int8": Word("TYPE_INT8"),
    "int32": Word("TYPE_INT32"),
    "int64": Word("TYPE_INT64"),
}
DEVICES = {"auto": Word("KIND_AUTO"), "gpu": Word("KIND_GPU"), "cpu": Word("KIND_CPU")}


@dataclass(frozen=True)
class Options:
    """How a bundle is served.

    `artifact`: which file of the bundle; empty takes the most precise ONNX. `name`: empty takes the bundle's.
    `ensemble`: parts that take uint8 frames in `color` order (empty: bgr), and give boxes, round a model that does not.
    `instances` run at the same time on `device` (auto, gpu, cpu). `delay_us`: how many microseconds a request may
    wait for others to share its batch.
    """

    artifact: str = ""
    name: str = ""
    ensemble: bool = False
    color: str = ""
    device: str = "auto"
    instances: int = 1
    delay_us: int = 500

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UsageError(f"device {self.device!r} is not one of {', '.join(DEVICES)}")
        if self.color and not self.ensemble:
            raise UsageError("--frames is for an ensemble that takes frames", hint="add --ensemble")
        if self.instances < 1 or self.delay_us < 0:
            raise UsageError(f"{self.instances} instances that wait {self.delay_us} us, expected 1 and 0 at least")


@dataclass(frozen=True)
class Model:
    """One folder of the repository. `spec` is of all that is served, `inputs` and `outputs` are this model's own."""

    name: str
    spec: ModelSpec
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    format: str = ""  # empty for an ensemble
    content: bytes | Path = b""
    usual: int = 1  # the batch an engine was built to be best at
    steps: tuple[Model, ...] = ()
    inner: bool = False  # a part of an ensemble, of no interest to clients

    @property
    def most(self) -> int:
        """The largest batch Triton may form; 0 for none: a model that does not take every batch from 1 on."""
        batch = self.inputs[0].shape[0]
        return batch.max if isinstance(batch, Batch) and batch.min == 1 else 0

    def config(self, options: Options) -> dict[str, Any]:
        """The fields of config.pbtxt."""
        runs = {"platform": "ensemble"} if self.steps else {"backend": BACKENDS[self.format][0]}
        labels = {"label_filename": LABELS} if self.spec.task == "classify" and not self.inner else {}
        fields = {
            "name": self.name,
            **runs,
            "max_batch_size": self.most,
            "input": [self._tensor(one) for one in self.inputs],
            "output": [{**self._tensor(one), **labels} for one in self.outputs],
            "version_policy": {"latest": {"num_versions": 1}},
            **(
                {"ensemble_scheduling": {"step": list(map(_step, self.steps))}}
                if self.steps
                else self._running(options)
            ),
        }
        return fields if self.inner else {**fields, "parameters": _facts(self.spec)}

    def _running(self, options: Options) -> dict[str, Any]:
        """How many run where, by which batches, and what they run first."""
        batching = {
            "preferred_batch_size": sorted({self.usual, self.most}),
            "max_queue_delay_microseconds": options.delay_us,
        }
        return {
            "instance_group": [{"kind": DEVICES[options.device], "count": options.instances}],
            **({"dynamic_batching": batching} if self.most else {}),
            "model_warmup": [self._warm_up(batch) for batch in sorted({1, self.most or 1})],
        }

    def _tensor(self, tensor: TensorSpec) -> dict[str, Any]:
        return {"name": tensor.name, "data_type": TYPES[tensor.dtype], "dims": self._dims(tensor, -1)}

    def _dims(self, tensor: TensorSpec, batch: int) -> list[int]:
        """The shape as Triton has it: without the batch, where it forms batches itself."""
        first, *others = tensor.shape
        rest = [dim for dim in others if isinstance(dim, int)]
        return rest if self.most else [batch if isinstance(first, Batch) else first, *rest]

    def _warm_up(self, batch: int) -> dict[str, Any]:
        """A request of zeros before the first real one."""
        values = [
            {
                "key": tensor.name,
                "value": {
                    "data_type": TYPES[tensor.dtype],
                    "dims": self._dims(tensor, tensor.batch.min),
                    "zero_data": True,
                },
            }
            for tensor in self.inputs
        ]
        return {"name": f"zeros_{batch}", "batch_size": batch, "inputs": values}

    def write(self, folder: Path, options: Options) -> None:
        """All its files, into a folder that is there and empty."""
        (folder / CONFIG).write_text(text(self.config(options)), encoding="utf-8")
        if not self.inner:
            lines = [" ".join(label.split()) for label in self.spec.labels]
            (folder / LABELS).write_text("\n".join([*lines, ""]), encoding="utf-8")
        version = folder / "1"  # an ensemble has a version too, with nothing in it
        version.mkdir()
        if isinstance(self.content, Path):
            shutil.copyfile(self.content, version / BACKENDS[self.format][1])
        elif self.format:
            (version / BACKENDS[self.format][1]).write_bytes(self.content)


def write(bundle: Bundle, repository: Path, options: Options) -> list[Path]:
    """Write the bundle's models into `repository`, beside what is there; gives their folders, an ensemble's last.

    None comes into its place before all are written. Raises UsageError, ExportError, BundleError.
    """
    found = models(bundle, options)
    with ExitStack() as stack:
        for model in reversed(found):  # the last entered is the first in its place
            model.write(stack.enter_context(writing(repository / model.name, CONFIG)), options)
    return [repository / model.name for model in found]


def models(bundle: Bundle, options: Options) -> list[Model]:
    """The models of the repository, an ensemble after its parts."""
    artifact = _artifact(bundle.spec, options)
    spec, usual = _batched(bundle.spec, artifact)
    name = options.name or spec.name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"{name!r} is no name for a model: letters, digits, dots and hyphens", hint="say --name NAME")
    network = Model(name, spec, spec.inputs, spec.outputs, artifact.format, bundle.artifact_file(artifact), usual)
    return _ensemble(network, options) if options.ensemble else [network]


def _artifact(spec: ModelSpec, options: Options) -> Artifact:
    """The file to serve, in a format that Triton knows."""
    served = [one for one in spec.artifacts if one.format in BACKENDS]
    names = ", ".join(one.file for one in served) or "none"
    if options.artifact:
        chosen = [one for one in spec.artifacts if one.file == options.artifact]
    else:
        portable = [one for one in served if one.format == "onnx"]
        chosen = sorted(portable, key=lambda one: PRECISIONS.index(one.precision))[:1]
    if not chosen:
        what = options.artifact or "ONNX file"
        raise UsageError(f"{spec.name} holds no {what} to serve", hint=f"what Triton can serve of it: {names}")
    (artifact,) = chosen
    if artifact.format not in BACKENDS:
        raise ExportError(
            f"{artifact.file}: Triton has no backend for TensorRT-RTX engines", hint=f"what it can serve: {names}"
        )
    if artifact.format == "trt" and options.device == "cpu":
        raise UsageError(f"{artifact.file} runs on a GPU only", hint="leave --device out, or choose an ONNX file")
    return artifact


def _batched(spec: ModelSpec, artifact: Artifact) -> tuple[ModelSpec, int]:
    """The spec with the batch that this artifact takes, and the batch it does best."""
    batch = spec.batch
    usual = max(batch.min, batch.max // 2)
    profile = keys.profile(artifact)
    if len(profile) != 3 or not isinstance(spec.inputs[0].shape[0], Batch):
        return spec, usual
    batch = Batch(profile[0], profile[2])
    inputs, outputs = (
        tuple(dataclasses.replace(one, shape=(batch, *one.shape[1:])) for one in tensors)
        for tensors in (spec.inputs, spec.outputs)
    )
    return dataclasses.replace(spec, inputs=inputs, outputs=outputs), profile[1]


def _ensemble(network: Model, options: Options) -> list[Model]:
    """The network between the parts that it needs, and the ensemble of them all."""
    plain = whole = network.spec
    steps = [dataclasses.replace(network, name=f"{network.name}_network", inner=True)]
    if plain.preprocess.where == "runtime":
        model, whole = frames.alone(whole, options.color or "bgr")
        steps.insert(0, _part(network, "frames", model, whole.inputs[:1], plain.inputs[:1]))
    elif options.color not in ("", plain.preprocess.color):
        raise UsageError(f"{plain.name} takes frames in {plain.preprocess.color} order", hint="leave --frames out")
    decode = plain.decode
    if isinstance(decode, Boxes) and decode.where == "runtime" and decode.layout != "end2end":
        model, whole = suppress.alone(whole)
        steps.append(_part(network, "boxes", model, plain.outputs[:1], whole.outputs))
    if len(steps) == 1:
        raise UsageError(f"{plain.name} takes frames and gives its results already", hint="leave --ensemble out")
    return [*steps, Model(network.name, whole, whole.inputs, whole.outputs, steps=tuple(steps))]


def _part(
    network: Model, role: str, model: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Model:
    name, content = f"{network.name}_{role}", model.SerializeToString(deterministic=True)
    return Model(name, network.spec, inputs, outputs, "onnx", content, network.usual, inner=True)


def _step(model: Model) -> dict[str, Any]:
    """A step of an ensemble; tensors go by their own names, which fit from part to part."""
    maps = {"input_map": model.inputs, "output_map": model.outputs}
    wires = {kind: [{"key": one.name, "value": one.name} for one in tensors] for kind, tensors in maps.items()}
    return {"model_name": model.name, "model_version": -1, **wires}


def _facts(spec: ModelSpec) -> list[dict[str, Any]]:
    """What a client must know of pictures and results; Triton hands it out with the configuration."""
    facts = sorted({**described(spec), "task": spec.task}.items())
    return [{"key": key, "value": {"string_value": fact}} for key, fact in facts]
