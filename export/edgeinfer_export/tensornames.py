"""Tensor names as the graph builders know them, whatever wrapped the model when it was saved."""

from __future__ import annotations

from typing import TypeVar

from edgeinfer.errors import CheckpointError

Tensor = TypeVar("Tensor")

# put into the middle of names by torch.compile, FSDP and activation checkpointing
INNER = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# put before all names by DistributedDataParallel, Lightning and hand-written training loops
OUTER = frozenset(("module", "model", "net", "network", "ema"))

MAX_NAME = 512


def short_name(name: object) -> str:
    """`name` if it is fit to name a tensor or module."""
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise CheckpointError(
            f"a tensor's name is not a short text (a model nested in itself, or a {type(name).__name__})"
        )
    return name


def normalised(tensors: dict[str, Tensor], *, partly: bool = False) -> dict[str, Tensor]:
    """Wrapper prefixes removed: YOLO as `model.0.conv.weight`, ResNet as `conv1.weight`.

    With `partly`, tensors that lack the prefix most others have (losses, metrics) are left out.
    """
    named = {_without_inner(name): tensor for name, tensor in tensors.items() if name != "n_averaged"}
    if len(named) != len(tensors) - ("n_averaged" in tensors):
        raise CheckpointError("two tensors have the same name once wrapper prefixes are removed")
    if partly:
        named = _only_the_model(named)
    while prefix := _shared_prefix(named):
        named = {name[len(prefix) :]: tensor for name, tensor in named.items()}
    if named and all(name.partition(".")[0].isdecimal() for name in named):
        return {f"model.{name}": tensor for name, tensor in named.items()}
    return named


def _without_inner(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in INNER)


def _only_the_model(named: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("model.", "net.", "network."):
        kept = {name: tensor for name, tensor in named.items() if name.startswith(prefix)}
        if kept:
            return kept
    return named


def _shared_prefix(named: dict[str, Tensor]) -> str:
    """The wrapper's prefix all names share, unless it is the `model.` of YOLO's numbered layers."""
    firsts = {name.partition(".")[0] for name in named}
    if len(firsts) != 1 or not firsts <= OUTER:
        return ""
    prefix = f"{firsts.pop()}."
    seconds = {name[len(prefix) :].partition(".")[0] for name in named}
    numbered = any(part.isdecimal() for part in seconds)
    if prefix == "model." and numbered:
        return ""
    return "" if "" in seconds else prefix
