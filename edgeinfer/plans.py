"""What `edgeinfer tune` found best for a bundle on this machine: what `load` runs while it holds.

A plan is a JSON file in `$XDG_STATE_HOME/edgeinfer/plans`, named after the bundle's place and, from the second on, the
GPU. It holds for the very `model.json`, processor, GPU and library versions it was found with; where one of them
differs it is passed over, and `fault` says which. `gpu` is the GPU that was asked for, None where none was.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import edgeinfer
from edgeinfer import backends, ladder, machine, quota, regular
from edgeinfer.bundle import SPEC_FILE, sha256_of
from edgeinfer.errors import EdgeInferError
from edgeinfer.wholefile import whole

if TYPE_CHECKING:
    from pathlib import Path

    from edgeinfer.bundle import Bundle
    from edgeinfer.ladder import Rung

SCHEMA = 1
LIBRARIES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx-cu12",
    "tensorrt-rtx-cu13",
    "opencv-python",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class Choice:
    """One way to run a bundle, in full.

    `artifact` is a file of the bundle, empty for backends that need none; `threads` 0 leaves their number to the
    library; `settings` are the engine's own (`Engine.settings`); `batch` 0 lets a run take as many pictures as the
    model does; `contexts` are the calls that run at the same time.
    """

    backend: str
    artifact: str = ""
    threads: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    batch: int = 0
    contexts: int = 1

    @property
    def name(self) -> str:
        """`ov model.int8.onnx, 2 contexts, 1 thread, pinning off`."""
        contexts = f"{self.contexts} contexts" if self.contexts > 1 else ""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        settings = [f"{name} {value}" for name, value in self.settings.items()]
        batch = f"batch {self.batch}" if self.batch else ""
        return ", ".join(filter(None, (f"{self.backend} {self.artifact}".strip(), contexts, threads, *settings, batch)))

    @classmethod
    def of(cls, rung: Rung) -> Choice:
        return cls(rung.backend, rung.artifact.file if rung.artifact else "")


@dataclass(frozen=True)
class Plan:
    """A choice, and what it was made for: `here` is `fingerprint()`, `bundle` the SHA-256 of model.json.

    `doubts` are what spoke against the numbers by which it was chosen.
    """

    choice: Choice
    made: str
    objective: str
    budget: float
    bundle: str
    here: dict[str, str]
    doubts: tuple[str, ...] = ()

    def words(self) -> str:
        return f"tuned {self.made} for {self.objective} on this machine: {self.choice.name}"


def fingerprint(gpu: int | None = None) -> dict[str, str]:
    """What a plan is tied to besides the bundle: the processor, the GPU and its driver, versions of libraries."""
    facts = {
        "edgeinfer": edgeinfer.__version__,
        "processor": machine.cpu(),
        "cores": str(machine.cores()),
        "system": machine.system(),
    }
    limit = quota.cpu_quota()
    if limit:
        facts["cpu quota"] = f"{limit.cpus:g}"
    if machine.has_gpu():
        try:
            found = machine.gpu(gpu or 0)
            facts["gpu"] = f"{found.name}, sm {found.sm}, driver for CUDA {found.cuda}"
        except EdgeInferError as error:
            facts["gpu"] = f"none: {error}"
    return {**facts, **machine.versions(*LIBRARIES)}


def path(bundle: Bundle, gpu: int | None = None) -> Path:
    """Where the plan of a bundle is kept, be it there or not."""
    place = bundle.path.resolve()
    name = f"{place.name[:50]}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}{f'-gpu{gpu}' if gpu else ''}.json"
    return machine.xdg_folder("XDG_STATE_HOME", ".local/state") / "edgeinfer" / "plans" / name


def read(bundle: Bundle, gpu: int | None = None) -> Plan | None:
    """The plan kept for this bundle, whether it holds or not; None without one. Raises EdgeInferError."""
    file = path(bundle, gpu)
    try:
        data: Any = json.loads(regular.content(file))
    except (FileNotFoundError, NotADirectoryError):  # system users have homes such as /dev/null
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, getattr(error, "strerror", None) or str(error)) from error
    try:
        return _plan(data)
    except (TypeError, KeyError, AttributeError) as error:
        raise _damaged(file, f"a part is missing or wrong ({error})") from error


def _plan(data: Any) -> Plan:
    if data["schema"] != SCHEMA:
        raise KeyError(f"schema {data['schema']!r}, not {SCHEMA}")
    facts = {name: value for name, value in data.items() if name not in ("schema", "choice", "doubts")}
    doubts = tuple(data["doubts"])
    choice = Choice(**data["choice"])
    texts = (choice.backend, choice.artifact, *choice.settings.values(), *data["here"].values(), data["made"], *doubts)
    numbers = (choice.threads, choice.batch, choice.contexts)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("a value is of the wrong type")
    return Plan(choice, **facts, doubts=doubts)


def _damaged(file: Path, reason: str) -> EdgeInferError:
    return EdgeInferError(f"the plan {file} cannot be read: {reason}", hint="edgeinfer tune --forget BUNDLE removes it")


def fault(plan: Plan, bundle: Bundle, gpu: int | None = None) -> str:
    """Why this plan does not hold for this bundle here and now, in words; empty if it does."""
    if plan.bundle != sha256_of(bundle.path / SPEC_FILE):
        return "the bundle has changed since"
    now = fingerprint(gpu)
    for name in {**plan.here, **now}:
        before, after = plan.here.get(name, "not there"), now.get(name, "not there")
        if before != after:
            return f"{name} is {after} now, and was {before}"
    if plan.choice.backend not in ladder.ORDER:
        return f"there is no backend {plan.choice.backend}"
    for rung in ladder.climb(bundle, plan.choice.backend, gpu=gpu):
        if rung.reason and (rung.artifact is None or rung.artifact.file == plan.choice.artifact):
            return rung.reason
    return _lacking(plan.choice, bundle)


def _lacking(choice: Choice, bundle: Bundle) -> str:
    """What of this choice there is not, in words; empty if all is there."""
    if not bundle.spec.artifact(choice.artifact):
        return f"the bundle holds no {choice.artifact}"
    known = backends.settings(choice.backend)
    for name, value in choice.settings.items():
        if value not in known.get(name, ()):
            return f"{choice.backend} has no setting {name} {value}"
    for what, count, least, most in (
        ("threads", choice.threads, 0, quota.most_threads()),
        ("batch", choice.batch, 0, bundle.spec.batch.max),
        ("contexts", choice.contexts, 1, quota.most_threads()),
    ):
        if not least <= count <= most:
            return f"{what} {count} is not within {least} to {most}"
    return ""


def current(bundle: Bundle, gpu: int | None = None) -> Plan | None:
    """The plan that holds here and now; None without one. Costs a look at one file where there is none."""
    try:
        plan = read(bundle, gpu)
    except EdgeInferError:
        return None
    return None if plan is None or fault(plan, bundle, gpu) else plan


def write(plan: Plan, bundle: Bundle, gpu: int | None = None) -> Path:
    """Keep it, in place of the one before. Raises EdgeInferError, OSError."""
    file = path(bundle, gpu)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    regular.check(file)
    with whole(file) as part:
        part.write_text(json.dumps({"schema": SCHEMA, **asdict(plan)}, indent=2) + "\n", encoding="utf-8")
    return file


def forget(bundle: Bundle, gpu: int | None = None) -> bool:
    """Remove the plan of this bundle; False if there was none."""
    try:
        path(bundle, gpu).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
