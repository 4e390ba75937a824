"""One file here is one backend; its class `Engine` runs a model whose tensors live on one kind of device.

A backend exists because its file exists: `names()` reads the directory, `load(name)` imports on demand.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from edgeinfer.errors import BackendUnavailable
from edgeinfer.spec import Boxes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeinfer.devices import Device, Tensors
    from edgeinfer.spec import Artifact, ModelSpec


class Layer(NamedTuple):
    """What one layer of an engine took in a run; `kind` and `precision` are empty where the library does not tell."""

    name: str
    ms: float
    kind: str = ""
    precision: str = ""


class Engine(Protocol):
    """Runs one artifact. What it can do stands in its class attributes, nowhere else.

    `device`     the name of the device its tensors live on ("cpu", "gpu");
    `formats`    artifact formats it opens, empty if it needs no file;
    `precisions` those it opens, best choice for this hardware first;
    `library`    on the GPU: the vendor's module and release, as in an artifact's `built_with`.

    An engine with more to set than threads takes it as keywords, and its class method `settings()` names their values,
    the default first; `compute`, what it calculates in, is the only one that may change a result.
    An engine that can time its layers has `profile_layers(inputs)`, which gives a list of `Layer`.
    """

    device: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]]
    library: ClassVar[str]

    def __init__(self, path: Path, spec: ModelSpec, device: Device, *, threads: int = 0, contexts: int = 1) -> None:
        """Open the file, to be forked to so many `contexts` of so many `threads` each; 0 is the library's choice.

        Raises EngineError.
        """

    @classmethod
    def refuses(cls, artifact: Artifact) -> str:
        """Why this backend does not run this artifact, in one plain sentence; empty if it can."""

    def fork(self, device: Device) -> Engine:
        """Another context over the same weights, with tensors on `device` (another lane's)."""

    def run(self, inputs: Tensors) -> Tensors:
        """Inputs by name -> outputs by name, memory owned by the engine and valid until its next run.

        On the CPU an output may be a view of memory in another order, if it `reads_rows`.
        """

    def close(self) -> None:
        """Free what it holds; calling it twice is harmless."""


def names() -> list[str]:
    """Every backend there is a file for, runnable here or not."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> type[Engine]:
    """The engine class of this backend; BackendUnavailable if it does not exist or its library is missing."""
    if name not in names():
        raise BackendUnavailable(f"backend {name!r} is not one of {', '.join(names())}")
    try:
        engine: type[Engine] = importlib.import_module(f"edgeinfer.backends.{name}").Engine
    except BackendUnavailable:
        raise
    except Exception as error:  # a library that is damaged, or another's namesake, may fail in any way
        words = f"what backend {name} is made of cannot be imported: {type(error).__name__}: {error}"
        raise BackendUnavailable(words, hint="edgeinfer doctor says which library; install it again") from error
    return engine


def settings(name: str) -> Mapping[str, tuple[str, ...]]:
    """What the engine of this backend can be set to besides threads, the default first; empty if to nothing."""
    ask: Any = getattr(load(name), "settings", dict)
    found: Mapping[str, tuple[str, ...]] = ask()
    return found


def reads_rows(spec: ModelSpec) -> bool:
    """Whether of what a model says of each box little is read but a column: its rows may then lie as columns."""
    return isinstance(spec.decode, Boxes) and spec.decode.layout != "yolov8"
