"""Image -> boxes: edgeinfer as `tune` leaves it, beside Ultralytics on the same network as ONNX and as OpenVINO.

Each contender is a process of its own, since two runtimes in one disturb each other; they take turns in random order
on one picture. The network is the packaged detector, for Ultralytics in the layout that it reads. Numbers of a shared
machine are only good as ratios within one run. `--reference` is the command of a Python that has ultralytics,
openvino and onnxruntime (tests/reference/README.md); `--export` are more words for `edgeinfer export`.

    python benchmarks/tune.py --reference .venv-reference/bin/python --json benchmarks/results/tune.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

CALLS, SETTLE = 8, 3
SECONDS = 5.0


def child(kind, model, picture):
    """Calls the model as often as each line read says, and writes the milliseconds of each."""
    import cv2

    image = cv2.imread(picture)
    call = ours(kind, model) if kind in ("tuned", "untuned") else theirs(model)
    found = call(image)
    print(json.dumps({"found": found}), flush=True)
    for line in sys.stdin:
        spans = []
        for _ in range(SETTLE + int(line)):
            start = time.perf_counter()
            call(image)
            spans.append((time.perf_counter() - start) * 1e3)
        print(json.dumps(spans[SETTLE:]), flush=True)


def ours(kind, bundle):
    from edgeinfer import load

    model = load(bundle, plan=kind == "tuned")
    return lambda image: len(model(image))


def theirs(path):
    from ultralytics import YOLO

    model = YOLO(path, task="detect")
    asked = {"imgsz": 640, "device": "cpu", "conf": 0.25, "iou": 0.45, "verbose": False}
    return lambda image: len(model.predict(image, **asked)[0].boxes)


class Contender:
    """One process, idle until it has its turn."""

    def __init__(self, command, kind, model, picture):
        words = [*command, str(Path(__file__)), "--child", kind, str(model), str(picture)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.turns = []
        self.found = self.heard()["found"]

    def heard(self):
        """Its next line of JSON; libraries may print what they like before."""
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise SystemExit(f"a contender ended: {self.process.args}")

    def turn(self):
        print(CALLS, file=self.process.stdin, flush=True)
        self.turns.append(median(self.heard()))

    def close(self):
        self.process.kill()
        self.process.communicate()


def models(folder, ready, flags):
    """(bundle, ONNX as Ultralytics reads it, the same as OpenVINO, picture)."""
    import cv2
    import openvino
    from cpu import as_yolov8, picture

    from edgeinfer.cli import main as edgeinfer
    from edgeinfer_export import checkpoint, graphs
    from edgeinfer_export.export import write_bundle

    source = Path(__file__).parent.parent / "export/edgeinfer_export/assets/pictograms.pt"
    bundle = ready or folder / "bundle"
    if not ready and edgeinfer(["export", str(source), "-o", str(bundle), *flags]):
        raise SystemExit("the export failed")
    shared = write_bundle(*as_yolov8(graphs.build(checkpoint.read(source), name="shared")), folder / "shared")
    converted = folder / "shared_openvino_model"
    openvino.save_model(
        openvino.convert_model(shared / "model.fp32.onnx"), converted / "shared.xml", compress_to_fp16=False
    )
    labels = json.loads((bundle / "model.json").read_text())["labels"]
    names = "".join(f"  {place}: {label}\n" for place, label in enumerate(labels))
    facts = f"stride: 32\ntask: detect\nbatch: 1\nimgsz: [640, 640]\nnames:\n{names}"
    (converted / "metadata.yaml").write_text(facts)
    cv2.imwrite(str(folder / "picture.png"), picture())
    return bundle, shared / "model.fp32.onnx", converted, folder / "picture.png"


def race(contenders, turns):
    chance = random.Random(0)
    for turn in range(turns):
        print(f"\rturn {turn + 1} of {turns}", end="", file=sys.stderr, flush=True)
        for one in chance.sample(list(contenders.values()), len(contenders)):
            one.turn()
    print(file=sys.stderr)


def measured(contenders):
    """Milliseconds by contender, and how many times as long as the tuned one each takes, with an interval."""
    from edgeinfer.profiling.comparison import paired

    tuned = contenders["tuned"].turns
    rows = {}
    for name, one in contenders.items():
        found = paired(name, one.turns, tuned)
        rows[name] = {
            "median_ms": median(one.turns),
            "times_tuned": found.ratio,
            "interval": [found.low, found.high],
            "boxes": one.found,
            "turns": len(one.turns),
            "calls": CALLS,
        }
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", default="", help="the command of a Python that has ultralytics")
    parser.add_argument("--turns", type=int, default=20, help="of each contender, 6 or more (default 20)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of tune, for each finalist (default 5)")
    parser.add_argument("--images", help="what tune measures accuracy on (default: the bundle's golden pictures)")
    parser.add_argument("--export", default="", help="more words for edgeinfer export")
    parser.add_argument("--bundle", type=Path, help="of the packaged detector, instead of exporting one")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    from cpu import context

    about = context()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        bundle, shared, converted, picture = models(folder, args.bundle, shlex.split(args.export))
        outcome = tuned(bundle, args)
        here = [sys.executable]
        entries = {"tuned": (here, bundle), "untuned": (here, bundle)}
        if args.reference:
            there = shlex.split(args.reference)
            entries.update({"ultralytics onnx": (there, shared), "ultralytics openvino": (there, converted)})
        contenders = {}
        try:
            for kind, (command, model) in entries.items():
                contenders[kind] = Contender(command, kind, model, picture)
            race(contenders, args.turns)
        finally:
            for one in contenders.values():
                one.close()
        about["load_after"] = os.getloadavg()[0]
        found = {"context": about, "plan": outcome.winner.choice.name, "results": measured(contenders)}
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def tuned(bundle, args):
    from edgeinfer.tuning.tune import tune

    outcome = tune(bundle, seconds=args.seconds, images=args.images)
    print(outcome.table(), file=sys.stderr)
    return outcome


if __name__ == "__main__":
    main()
