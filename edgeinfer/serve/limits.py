"""What the service takes at most; every number has a safe default."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `queue` counts the waiting requests of one model; `delay` is how long the first request of a batch waits for
    others (0: a batch is what came while the one before it ran); `memory` holds for all request bodies, and the
    pictures decoded from them, together. A gRPC message counts once it is complete: on their way there may be
    `connections` of them besides, each up to `body`. `age` is how old the newest result of a camera may be before it
    counts as ill, `viewers` how many may watch the cameras together. `values` are those of a request, or of its answer,
    that are no binary data, each of which is a Python object for a while.
    """

    body: int = 64 * MIB
    memory: int = 512 * MIB
    head: int = 16 * 1024
    values: int = 8 << 20
    pixels: int = 50_000_000
    connections: int = 128
    queue: int = 64
    batch: int = 32
    delay: float = 0.0
    timeout: float = 30.0
    slow: float = 10.0
    stuck: float = 30.0
    drain: float = 30.0
    age: float = 1.5
    viewers: int = 16
