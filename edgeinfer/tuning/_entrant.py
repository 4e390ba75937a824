"""The child of `entrants`: a process that runs one candidate, and says on stdout how it does.

    echo '{"work": "answers", "bundle": ..., "choice": {...}, ...}' | python -m edgeinfer.tuning._entrant

Its work: `answers`, what it finds in each of `pictures`; `thorough`, by the thresholds that accuracy is measured with,
else by the bundle's own. `tensors`, its inputs and outputs for each picture, as files in `folder`. `turns`, first
`{"ready": ...}`; then each line it reads is the seconds of a turn, and each line it writes that turn's samples and the
memory the process has taken at most.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeinfer import quota
from edgeinfer.profiling import voice

if TYPE_CHECKING:
    from edgeinfer.bundle import Bundle
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.profiling.voice import Voice
    from edgeinfer.results import Result

WARM_UP_S = 0.3


def main(asked: dict[str, Any], say: Voice) -> None:
    {"answers": answers, "tensors": tensors, "turns": turns}[asked["work"]](asked, say)


def answers(asked: dict[str, Any], say: Voice) -> None:
    from edgeinfer import accuracy, datasets
    from edgeinfer.bundle import Bundle

    bundle = Bundle.open(asked["bundle"])
    pictures = datasets.unlabelled(bundle.path, [Path(name) for name in asked["pictures"]], bundle.spec.labels)
    thresholds = accuracy.thresholds(bundle.spec) if asked["thorough"] else {}
    with _loaded(bundle, asked, **thresholds) as model:
        say({"ready": {}})
        found = accuracy.predict(model, pictures, on_error=lambda _: None)
    say({"answers": [_record(result) for result in found]})


def _loaded(bundle: Bundle, asked: dict[str, Any], **thresholds: Any) -> Pipeline:
    from edgeinfer.loading import load
    from edgeinfer.plans import Choice

    return load(bundle, plan=Choice(**asked["choice"]), device=asked["device"], **thresholds)


def _record(result: Result | None) -> dict[str, Any] | None:
    """Whole numbers and floats as they are, so that nothing is rounded on the way."""
    if result is None:
        return None
    arrays = {name: getattr(result, name) for name in ("boxes", "scores", "class_ids") if hasattr(result, name)}
    size = [result.source.height, result.source.width]
    return {**{name: array.tolist() for name, array in arrays.items()}, "source": size}


def tensors(asked: dict[str, Any], say: Voice) -> None:
    import numpy as np

    from edgeinfer import sources
    from edgeinfer.bundle import Bundle

    files = []
    with _loaded(Bundle.open(asked["bundle"]), asked) as model:
        say({"ready": {}})
        for place, picture in enumerate(asked["pictures"]):
            device, file = model.device, Path(asked["folder"], f"{place}.npz")
            inputs, _ = device.preprocess([sources.picture(Path(picture)).image])
            outputs = model.engine.run(inputs)
            rows = model.spec.batch.min
            np.savez(file, **device.fetch(inputs, rows), **device.fetch(outputs, rows))
            files.append(str(file))
    say({"files": files})


def turns(asked: dict[str, Any], say: Voice) -> None:
    from edgeinfer.bundle import Bundle
    from edgeinfer.profiling import loop, scenarios
    from edgeinfer.profiling.subject import picture_set

    bundle, scenario = Bundle.open(asked["bundle"]), asked["scenario"]
    pictures = picture_set(bundle, asked["pictures"]).pictures
    start = time.perf_counter()
    with _loaded(bundle, asked) as model:
        load_ms = (time.perf_counter() - start) * 1e3
        subject = scenarios.subject_of(scenario, model, "pipeline", pictures)
        warm = scenarios.warm_up(subject, WARM_UP_S)
        say({"ready": {"load_ms": load_ms, "device": model.engine.device}})
        for line in sys.stdin:
            load_ = scenarios.load_of(scenario, subject, float(line), warm["median_ms"], 0.0)
            subject(list(range(subject.reach)))  # what others threw out of the caches comes back, and does not count
            samples = loop.issue(load_, subject)
            say({"samples": dataclasses.asdict(samples), "memory_mb": _memory_mb()})


def _memory_mb() -> float | None:
    """The most that this process ever had resident, in 10^6 bytes; None where the system does not tell."""
    most = quota.counters(Path("/proc/self/status"), 1024).get("VmHWM")
    return most / 1e6 if most else None


if __name__ == "__main__":
    voice.speak(main)
