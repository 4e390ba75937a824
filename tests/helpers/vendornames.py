"""What NVIDIA's Python bindings have, release by release: golden/tensorrt_api/names.tsv, read back."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).parents[1] / "golden" / "tensorrt_api" / "names.tsv"


@lru_cache
def names():
    """name -> release -> kind (`class`, `=`, `rw`, `ro` or a signature)."""
    head, *lines = FILE.read_text().splitlines()
    releases = head.split("\t")[1].split()
    found = defaultdict(dict)
    for line in lines:
        name, marks, kind = line.split("\t")
        found[name].update({release: kind for release, mark in zip(releases, marks, strict=True) if mark == "Y"})
    return dict(found)


@lru_cache
def members(release):
    """class -> member -> kind in one release, owners first; the module's own names under an empty one."""
    found = {"": {}}
    for name, kinds in names().items():
        owner, _, member = name.rpartition(".")
        kind = kinds.get(release, "")
        if kind.startswith("class"):
            found.setdefault(name, {})
        elif kind:
            found.setdefault(owner, {})[member] = kind
    return found


def releases():
    return list(names()["Builder"])


@lru_cache
def having(name):
    """The releases that have this name, looked up in the class's bases too."""
    owner, _, member = name.rpartition(".")
    found = set(names().get(name, ()))
    for kind in set(names().get(owner, {}).values()):
        base = kind.removeprefix("class").strip("()")
        if base and base != owner:
            found |= having(f"{base}.{member}")
    return frozenset(found)


def takes(signature, count):
    """Whether a call with this many positional arguments fits."""
    if signature == "(...)":
        return True
    for overload in signature.split(" | "):
        parts = [part for part in overload.strip("()").split(", ") if part]
        needed = [part for part in parts if not part.endswith("=")]
        if len(needed) <= count <= len(parts):
            return True
    return False
