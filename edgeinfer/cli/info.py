"""`edgeinfer info`: what is in a bundle, what would run here, and why not the rest."""

from __future__ import annotations

import dataclasses
import json
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeinfer.cli import _choosing, _tables
from edgeinfer.errors import EdgeInferError
from edgeinfer.spec import Batch, Boxes

if TYPE_CHECKING:
    import argparse

    from edgeinfer.bundle import Bundle
    from edgeinfer.ladder import Rung
    from edgeinfer.plans import Plan
    from edgeinfer.spec import Artifact, ModelSpec, TensorSpec

HELP = "show what is in a bundle, what would run here, and why not the rest"
EXAMPLE = """\
edgeinfer info engines/yolov5s
edgeinfer info engines/yolov5s --json | jq .ladder"""
NO_GOLDEN = "none: the engine came without its ONNX, so only its hash can be verified"
MISSING = "missing"
# a process's memory for a byte of a model's file, and besides: no more than ONNX Runtime and OpenVINO were seen to take
WEIGHTS, BASE = 2, 100_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _choosing.add_bundle(parser)
    _choosing.add_device(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object: bundle, spec (model.json), ladder, plan")


def run(args: argparse.Namespace) -> int:
    from edgeinfer import ladder, machine
    from edgeinfer.bundle import Bundle

    bundle, gpu = Bundle.open(args.bundle), machine.ordinal(args.device)
    rungs, plan = [_seen(bundle, rung) for rung in ladder.climb(bundle, gpu=gpu)], _kept(bundle, gpu)
    if args.json:
        print(json.dumps(_record(bundle, rungs, plan), ensure_ascii=False))
    else:
        print(_page(bundle, rungs, plan))
    return 0


def _seen(bundle: Bundle, rung: Rung) -> Rung:
    """The rung, refused where its file is missing."""
    from edgeinfer.keys import Refusal

    if rung.reason or not rung.artifact or (bundle.path / rung.artifact.file).is_file():
        return rung
    return rung._replace(reason=Refusal(MISSING, f"{rung.artifact.file} is missing; export the bundle again"))


class Kept(NamedTuple):
    """The plan that tune kept for a bundle, if it can be read, and why it does not hold, if it does not."""

    plan: Plan | None
    fault: str


def _kept(bundle: Bundle, gpu: int | None) -> Kept | None:
    from edgeinfer import plans

    try:
        plan = plans.read(bundle, gpu)
    except EdgeInferError as error:
        return Kept(None, str(error))
    return Kept(plan, plans.fault(plan, bundle, gpu)) if plan else None


def _planned(kept: Kept | None, bundle: Bundle) -> list[str]:
    """The lines about the plan; none without one."""
    if not kept:
        return []
    words = f"plan: {kept.plan.words()}" if kept.plan else "plan: unreadable"
    lines = [f"\n{words}", *(f"  in doubt: {doubt}" for doubt in (kept.plan.doubts if kept.plan else ()))]
    named = quote(str(bundle.path))
    if not kept.fault:
        return [*lines, f"  edgeinfer tune --forget {named} removes it"]
    return [*lines, f"  not used: {kept.fault}; tune again: edgeinfer tune {named}"]


def _record(bundle: Bundle, rungs: list[Rung], kept: Kept | None) -> dict[str, Any]:
    from edgeinfer import modeljson

    steps = [
        {
            "backend": rung.backend,
            "artifact": rung.artifact.file if rung.artifact else None,
            "precision": rung.artifact.precision if rung.artifact else None,
            "runs": rung is _running(rungs, kept),
            "reason": str(rung.reason),
            "code": rung.code,
            "facts": rung.reason.facts,
            "caveat": str(rung.caveat),
            "caveat_code": rung.caveat.code,
            "stage_by_stage": _uncaptured(rung),
        }
        for rung in rungs
    ]
    plan = (
        {**(dataclasses.asdict(kept.plan) if kept.plan else {}), "holds": not kept.fault, "reason": kept.fault}
        if kept
        else None
    )
    return {"bundle": str(bundle.path), "spec": modeljson.to_json(bundle.spec), "ladder": steps, "plan": plan}


def _running(rungs: list[Rung], kept: Kept | None) -> Rung | None:
    """The rung that would run: the plan's while it holds, else the first that can."""
    able = [rung for rung in rungs if not rung.reason or _fatal(rung)]
    if kept and kept.plan and not kept.fault:
        wanted = (kept.plan.choice.backend, kept.plan.choice.artifact)
        able = [rung for rung in able if (rung.backend, _name(rung)) == wanted]
    first = next(iter(able), None)
    return first if first and not first.reason else None


def _fatal(rung: Rung) -> bool:
    """Whether the way ends here: only a compiled engine that cannot be opened is passed by."""
    from edgeinfer import ladder

    return rung.code == MISSING and rung.backend not in ladder.COMPILED


def _uncaptured(rung: Rung) -> str:
    """Why frames are not one CUDA graph each with this backend, as far as it tells before it has opened an engine."""
    from edgeinfer import backends, ladder

    if rung.reason or rung.backend not in ladder.ON_GPU:
        return ""
    return str(getattr(backends.load(rung.backend), "uncapturable", ""))


def _remark(rung: Rung) -> str:
    why = _uncaptured(rung)
    return rung.reason or rung.caveat or (f"stage by stage, not one CUDA graph a frame: {why}" if why else "")


def _name(rung: Rung) -> str:
    return rung.artifact.file if rung.artifact else ""


def _page(bundle: Bundle, rungs: list[Rung], kept: Kept | None) -> str:
    spec = bundle.spec
    facts, running = [*_facts(spec), *_origin(spec)], _running(rungs, kept)
    files: list[tuple[str, ...]] = [("file", "format", "precision", "size", "accuracy", "built with")]
    files += [_artifact(bundle, artifact) for artifact in spec.artifacts]
    steps = [(_verdict(rung, running), rung.backend, _file(rung), _remark(rung)) for rung in rungs]
    parts = [
        _tables.printable(f"{spec.name} ({bundle.path})"),
        _tables.table(facts),
        "\nartifacts",
        _tables.table(files, right=[3]),
    ]
    parts += _planned(kept, bundle)
    parts += ["\non this machine, best first", _tables.table(steps or [("nothing",)]), *_advice(bundle, rungs)]
    parts += _tight(bundle, running)
    return "\n".join(parts)


def _advice(bundle: Bundle, rungs: list[Rung]) -> list[str]:
    """How to get an engine that fits this GPU, where a library that builds one is here and none is there."""
    from edgeinfer import ladder

    compiled = [rung for rung in rungs if rung.backend in ladder.COMPILED]
    able = [rung.backend for rung in compiled if rung.code not in ("no-gpu", "no-library", "no-device")]
    if not able or any(rung.exact for rung in compiled):
        return []
    return [f"\nfor an engine made for this GPU: edgeinfer build {quote(str(bundle.path))} --compile {able[0]}"]


def _tight(bundle: Bundle, running: Rung | None) -> list[str]:
    """Whether what would run is likely to need more memory than this process can have."""
    from edgeinfer import quota

    memory, path = quota.memory(), bundle.path / _name(running) if running else bundle.path
    if not memory or not path.is_file():
        return []
    need = BASE + WEIGHTS * path.stat().st_size
    if need <= memory.free:
        return []
    limit = f", of a limit of {_tables.size(memory.limit)}" if memory.limit else ""
    return [f"\nmemory: it needs about {_tables.size(need)}, and {_tables.size(memory.free)} is free{limit}"]


def _facts(spec: ModelSpec) -> list[tuple[str, str]]:
    part = spec.preprocess
    shown = ", ".join(spec.labels[:6]) + (", ..." if len(spec.labels) > 6 else "")
    resize = f"the shorter side to {part.resize}, then " if part.resize else ""
    fitted = f"{resize}{part.fit} to {part.size} ({part.interpolation})"
    halfway = " uint8 by the runtime; then" if part.where == "graph" else ","
    numbers = f"mean {_numbers(part.mean)}, std {_numbers(part.std)}, scale {part.scale:g}"
    return [
        ("task", f"{spec.task}, {_tables.counted(len(spec.labels), 'class')}: {shown}"),
        *(("input", _tensor(tensor)) for tensor in spec.inputs),
        *(("output", _tensor(tensor)) for tensor in spec.outputs),
        ("preprocess", f"{fitted}, {part.color}{halfway} {numbers}, by the {part.where}"),
        ("decode", _decode(spec)),
    ]


def _numbers(values: tuple[float, ...]) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else " ".join(f"{value:g}" for value in values)


def _tensor(tensor: TensorSpec) -> str:
    sides = [f"{dim.min}-{dim.max}" if isinstance(dim, Batch) else str(dim) for dim in tensor.shape]
    return f"{tensor.name} {'x'.join(sides)} {tensor.dtype}"


def _decode(spec: ModelSpec) -> str:
    part = spec.decode
    if not isinstance(part, Boxes):
        return f"the {part.k} best classes after {part.activation}"
    numbers = f"score {part.score:g} or more, overlap {part.iou:g} or less, at most {part.limit}"
    return f"{part.layout} boxes, {numbers}, by the {part.where}"


def _origin(spec: ModelSpec) -> list[tuple[str, str]]:
    """Where the model comes from, as far as it is known."""
    part = spec.provenance
    checksum = f"sha256 {part.sha256[:12]}" if part.sha256 else ""
    size = f"{part.parameters:,} parameters" if part.parameters else ""
    work = f"{part.gflops:g} GFLOPs" if part.gflops else ""
    rows = [
        ("source", _joined(part.source, checksum)),
        ("architecture", _joined(part.architecture, size, work)),
        ("licence", part.license),
        ("recipe", part.recipe),
        ("exported by", f"edgeinfer {part.edgeinfer}" if part.edgeinfer else ""),
        ("golden", _tables.counted(len(spec.golden), "sample") if spec.golden else NO_GOLDEN),
    ]
    return [(name, value) for name, value in rows if value]


def _joined(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _artifact(bundle: Bundle, artifact: Artifact) -> tuple[str, ...]:
    path = bundle.path / artifact.file
    size = _tables.size(path.stat().st_size) if path.is_file() else MISSING
    accuracy = ", ".join(f"{name} {value:g}" for name, value in artifact.accuracy.items())
    facts = {**artifact.target, "onnx": artifact.target.get("onnx", "")[:12]}
    target = " ".join(f"{name} {value}" for name, value in facts.items() if value)
    precision = f"{artifact.precision} ({artifact.flavor})" if artifact.flavor else artifact.precision
    return artifact.file, artifact.format, precision, size, accuracy or "-", _joined(artifact.built_with, target) or "-"


def _verdict(rung: Rung, running: Rung | None) -> str:
    return "runs" if rung is running else "no" if rung.reason else "could"


def _file(rung: Rung) -> str:
    return f"{rung.artifact.file} ({rung.artifact.precision})" if rung.artifact else "-"
