"""The child of `cold`: a process that imports, loads, gives its first result, and says on stdout when.

    echo '{"started": ..., "bundle": ..., ...}' | python -m edgeinfer.profiling._cold_start

`started` is `time.monotonic()` of the parent just before it started this one: on Linux both read one clock.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgeinfer.profiling import voice

if TYPE_CHECKING:
    from edgeinfer.pipeline import Pipeline


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each step to the first result, of a second one, and of one after `idle_s` seconds."""
    marks = [asked["started"], time.monotonic()]
    from edgeinfer.bundle import Bundle
    from edgeinfer.loading import choose, load
    from edgeinfer.profiling.subject import picture_set

    bundle = Bundle.open(asked["bundle"])
    loading = {name: asked[name] for name in ("backend", "precision", "plan", "device")}
    choose(bundle, **loading)  # imports the backend's library
    marks.append(time.monotonic())
    with load(bundle, **loading, threads=asked["threads"]) as model:
        marks.append(time.monotonic())
        image = picture_set(bundle, asked["source"], most=1).pictures[0].image
        marks.append(time.monotonic())
        model(image)
        marks.append(time.monotonic())
        second = _call(model, image)
        time.sleep(asked["idle_s"])
        spans = [(end - start) * 1e3 for start, end in zip(marks, marks[1:])]
        steps = dict(zip(("start", "import", "load", "decode", "first"), spans))
        return {"steps_ms": steps, "second_ms": second, "after_idle_ms": _call(model, image)}


def _call(model: Pipeline, image: Any) -> float:
    start = time.perf_counter()
    model(image)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    voice.speak(lambda asked, say: say(main(asked)))
