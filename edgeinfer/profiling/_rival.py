"""The child of `rivals`: a process that loads one bundle and measures it a turn at a time.

    echo '{"bundle": ..., "scenario": ..., ...}' | python -m edgeinfer.profiling._rival

It says `{"ready": facts}`; each line it then reads is the seconds of a turn, each it writes that turn's samples.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from edgeinfer.profiling import voice

if TYPE_CHECKING:
    from edgeinfer.profiling.voice import Voice


def main(asked: dict[str, Any], say: Voice) -> None:
    from edgeinfer import machine
    from edgeinfer.bundle import Bundle
    from edgeinfer.loading import load
    from edgeinfer.profiling import scenarios
    from edgeinfer.profiling.measuring import described
    from edgeinfer.profiling.subject import picture_set

    bundle = Bundle.open(asked["bundle"])
    pictures = picture_set(bundle, asked["source"])
    loading = {name: asked[name] for name in ("backend", "precision", "threads", "plan", "device")}
    with load(bundle, **loading) as model:
        scenario = asked["scenario"]
        subject = scenarios.subject_of(scenario, model, asked["boundary"], pictures.pictures)
        warm = scenarios.warm_up(subject)
        gpu = machine.ordinal(asked["device"]) or 0
        facts = described(bundle, model, asked["boundary"], pictures, threads=asked["threads"], gpu=gpu)
        say({"ready": {"context": facts, "warm_up": warm}})
        issuer = scenarios.issuer_of(scenario)
        for line in sys.stdin:
            load_ = scenarios.load_of(scenario, subject, float(line), warm["median_ms"], asked["fps"])
            subject(list(range(subject.reach)))  # what the rival threw out of the caches comes back, and does not count
            say({"samples": dataclasses.asdict(issuer.issue(load_, subject))})


if __name__ == "__main__":
    voice.speak(main)
