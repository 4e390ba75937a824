"""The child of `rivals`: a process that loads one bundle and measures it a turn at a time.

    python -m edgeinfer.profiling._rival '{"bundle": ..., "scenario": ..., ...}'

It says `{"ready": facts}`; each line it then reads is the seconds of a turn, each it writes that turn's samples.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


def main(asked: dict[str, Any], said: TextIO) -> None:
    from edgeinfer.bundle import Bundle
    from edgeinfer.loading import load
    from edgeinfer.profiling import scenarios
    from edgeinfer.profiling.measuring import described
    from edgeinfer.profiling.subject import Subject, picture_set

    bundle = Bundle.open(asked["bundle"])
    pictures = picture_set(bundle, asked["source"])
    with load(bundle, asked["backend"], asked["precision"], threads=asked["threads"]) as model:
        scenario = asked["scenario"]
        group = scenarios.group_of(scenario, model.spec.batch.max)
        subject = Subject(model, asked["boundary"], pictures.pictures, group)
        warm = scenarios.warm_up(subject)
        facts = described(bundle, model, asked["boundary"], pictures, asked["threads"])
        _say(said, {"ready": {"context": facts, "warm_up": warm}})
        issuer = scenarios.issuer_of(scenario)
        for line in sys.stdin:
            load_ = scenarios.load_of(scenario, subject, float(line), warm["median_ms"], asked["fps"])
            subject(list(range(group)))  # what the rival threw out of the caches comes back, and does not count
            _say(said, {"samples": dataclasses.asdict(issuer.issue(load_, subject))})


def _say(said: TextIO, words: dict[str, Any]) -> None:
    print(json.dumps(words), file=said, flush=True)


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """What libraries print goes to stderr, so that the parent reads nothing but our lines."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as said:
        os.dup2(2, 1)
        yield said


if __name__ == "__main__":
    with _own_stdout() as stdout:
        try:
            main(json.loads(sys.argv[1]), stdout)
        except Exception as error:  # noqa: BLE001 - the parent raises it in its own words
            _say(stdout, {"error": str(error) or type(error).__name__, "hint": getattr(error, "hint", "")})
