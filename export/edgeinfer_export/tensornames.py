"""Tensor names as the graph builders know them, whatever wrapped the model when it was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

# put into the middle of names by torch.compile, FSDP and activation checkpointing
INNER = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# put before all names by DistributedDataParallel, Lightning and hand-written training loops, never by a model
OUTER = frozenset(("module", "model", "net", "network", "ema"))

# of torch.optim.swa_utils.AveragedModel: how many models it is the average of
COUNTER = "n_averaged"

MAX_NAME = 512


def short_name(name: object) -> str:
    """`name` if it is fit to name a tensor or module."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise CheckpointError(
            f"a tensor's name is not a short text (a model nested in itself, or a {type(name).__name__})"
        )
    return name


@dataclass(frozen=True)
class Naming:
    """How a file's names of tensors and modules become the model's own: YOLO's `model.0.conv`, ResNet's `conv1`.

    `wrapper` is what wrappers put before all of them, `root` what they lack.
    """

    wrapper: str = ""
    root: str = ""

    def own(self, name: str) -> str:
        """The model's own name for `name`; empty for what is none of the model's."""
        short = _without_inner(name) if name != COUNTER else ""
        return f"{self.root}{short[len(self.wrapper) :]}" if short.startswith(self.wrapper) else ""


def naming(names: Iterable[str], *, partly: bool = False) -> Naming:
    """What all names of tensors share is a wrapper's; with `partly`, what most do (the others: losses, metrics)."""
    shorts = [_without_inner(name) for name in names if name != COUNTER]
    if len(set(shorts)) != len(shorts):
        raise CheckpointError("two tensors have the same name once wrapper prefixes are removed")
    wrapper = _most_shared(shorts) if partly else ""
    while prefix := _shared_prefix([name[len(wrapper) :] for name in shorts if name.startswith(wrapper)]):
        wrapper += prefix
    bare = [name[len(wrapper) :] for name in shorts if name.startswith(wrapper)]
    return Naming(wrapper, "model." if bare and all(name.partition(".")[0].isdecimal() for name in bare) else "")


def _without_inner(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in INNER)


def _most_shared(names: list[str]) -> str:
    for prefix in ("model.", "net.", "network."):
        if any(name.startswith(prefix) for name in names):
            return prefix
    return ""


def _shared_prefix(names: list[str]) -> str:
    """The wrapper's prefix all names share, whatever it is called: every model has parts of several names.

    But layers that are numbered have one name too, of which YOLO's `model.` is part of the model's own.
    """
    firsts = {name.partition(".")[0] for name in names}
    if len(firsts) != 1:
        return ""
    first = firsts.pop()
    if first.isdecimal():  # of a Sequential: what else it holds may have no tensors
        return ""
    seconds = [name[len(first) + 1 :].partition(".") for name in names]
    if any(part.isdecimal() for part, _, _ in seconds):
        return f"{first}." if first in OUTER - {"model"} else ""
    whole = all(rest for _, _, rest in seconds) or (first in OUTER and all(part for part, _, _ in seconds))
    return f"{first}." if whole else ""
