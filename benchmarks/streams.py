"""What a camera loop gives: the age of results, how soon trouble shows, frames a second of a file, the cascade's cost.

Needs a system Python with PyGObject and gir1.2-gst-rtsp-server-1.0 for the camera. The part that pulls a cable makes
a network namespace and needs root and iproute2. Usage: python benchmarks/streams.py [--minutes N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from importlib import resources
from itertools import islice
from pathlib import Path
from statistics import median

import cv2
import numpy as np

import edgeinfer
from edgeinfer.cascade import Cascade
from edgeinfer.devices.images import picture as checked
from edgeinfer.spec import Batch
from edgeinfer_export import graphs
from edgeinfer_export.export import Options, export, write_bundle

sys.path.insert(0, str(Path(__file__).parent))
from cpu import bare, context, interleaved, picture

PORT, FPS = 8554, 30
SYSTEM_PYTHON = "/usr/bin/python3"


class Camera:
    """The RTSP server as a process, in a network namespace of its own if `inside` names one."""

    def __init__(self, inside="", host="127.0.0.1"):
        self.inside, self.host = inside, host
        self.address = f"rtsp://{host}:{PORT}/camera"
        self.start()

    def start(self):
        where = ["ip", "netns", "exec", self.inside] if self.inside else []
        script = str(Path(__file__).parent / "rtsp_server.py")
        line = [*where, SYSTEM_PYTHON, script, str(PORT), str(FPS), self.host]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def show(self, pattern):
        self.process.stdin.write(pattern + "\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Watcher(threading.Thread):
    """Notes when the only source's health changes: [(seconds since the start, colour, reason)]."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.flips, self.began = stream, [], time.monotonic()
        self.over = threading.Event()

    def run(self):
        last = None
        while not self.over.wait(0.01):
            (health,) = self.stream.health().values()
            if health.color != last:
                last = health.color
                self.flips.append((time.monotonic() - self.began, last, health.reason))

    def since(self, start, color):
        """Seconds from `start` to the next change to this colour; waits for it, at most 15 s."""
        while time.monotonic() - self.began - start < 15:
            found = [when for when, shown, _ in list(self.flips) if when > start and shown == color]
            if found:
                return round(found[0] - start, 2)
            time.sleep(0.02)
        return None


def percentile(values, share):
    return float(np.percentile(values, share * 100))


def ages(model, minutes):
    """Ages of results from a camera faster than the model, minute by minute."""
    camera = Camera()
    try:
        rows, began = [], time.monotonic()
        with edgeinfer.stream(camera.address, model) as stream:
            for seen in stream:
                elapsed = time.monotonic() - began
                if elapsed > 60 * minutes:
                    break
                if elapsed > 3:
                    timings = seen.result.timings_ms
                    rows.append((elapsed, seen.freshness.age_ms, sum(timings.values()), seen.freshness.dropped))
    finally:
        camera.kill()
    table = np.array(rows)
    inference = percentile(table[:, 2], 0.99)
    limit = 1000 / FPS + inference + 20
    by_minute = [percentile(part[:, 1], 0.99) for part in np.array_split(table, max(1, round(minutes)))]
    return {
        "results": len(table),
        "dropped": int(table[:, 3].sum()),
        "age_ms_p50": percentile(table[:, 1], 0.5),
        "age_ms_p99": percentile(table[:, 1], 0.99),
        "model_ms_p50": percentile(table[:, 2], 0.5),
        "model_ms_p99": inference,
        "limit_ms": limit,
        "age_ms_p99_by_part": by_minute,
    }


@contextmanager
def namespace(name="edgeinfer-camera", host="10.231.7.2", here="10.231.7.1"):
    """A network namespace joined to this one by a cable, and what pulls it."""

    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", "ei-here", "type", "veth", "peer", "name", "ei-there", "netns", name)
        ip("addr", "add", f"{here}/24", "dev", "ei-here")
        ip("link", "set", "ei-here", "up")
        ip("-n", name, "addr", "add", f"{host}/24", "dev", "ei-there")
        ip("-n", name, "link", "set", "ei-there", "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name, host, lambda state: ip("-n", name, "link", "set", "ei-there", state)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def troubles(model):
    """Seconds until health is red after trouble began, and green after it ended."""
    with namespace() as (name, host, cable):
        camera = Camera(name, host)
        with edgeinfer.stream(camera.address, model) as stream:
            reader = threading.Thread(target=lambda: [None for _ in stream])
            reader.start()
            watcher = Watcher(stream)
            watcher.start()
            watcher.since(-1, "green")
            causes = {
                "frozen picture": (lambda: camera.show("solid"), lambda: camera.show("ball")),
                "black picture": (lambda: camera.show("black"), lambda: camera.show("ball")),
                "server killed": (camera.kill, camera.start),
                "cable pulled": (lambda: cable("down"), lambda: cable("up")),
            }
            rows = {}
            for cause, (begin, end) in causes.items():
                time.sleep(2)
                start = time.monotonic() - watcher.began
                begin()
                red = watcher.since(start, "red")
                time.sleep(3)
                end()
                back = time.monotonic() - watcher.began
                rows[cause] = {"red_after_s": red, "green_after_s": watcher.since(back, "green")}
            watcher.over.set()
            stream.close()
            reader.join()
        camera.kill()
    return rows


def video(folder, frames=150):
    """A 720p file of the packaged street scene, moving."""
    path = folder / "street.mp4"
    image = cv2.resize(picture(), (1280, 720))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (1280, 720))
    for place in range(frames):
        writer.write(np.roll(image, place * 4, axis=1))
    writer.release()
    return path


def file_speed(bundle, folder, rounds):
    """Frames a second of a video file through the whole pipeline, beside the bare engine alone, in turns."""
    path, image, spans = video(folder), picture(), {}
    with edgeinfer.load(bundle) as one, edgeinfer.load(bundle, contexts=2, threads=1) as two:
        engine = bare(bundle, one, image)
        for _ in range(rounds):
            for name, model in (("one context", one), ("two contexts", two)):
                start = time.perf_counter()
                with edgeinfer.stream(path, model) as stream:
                    count = sum(1 for _ in stream)
                spans.setdefault(name, []).append(count / (time.perf_counter() - start))
            start = time.perf_counter()
            for _ in range(50):
                engine()
            spans.setdefault("bare engine", []).append(50 / (time.perf_counter() - start))
    rates = {name: median(values) for name, values in spans.items()}
    rows = {f"{name} fps": value for name, value in rates.items()}
    best = max(rates["one context"], rates["two contexts"])
    return {**rows, "ratio": best / rates["bare engine"], "rounds": rounds}


def decoded(path, *, converted):
    """Frames of a video file that were decoded, and made BGR if `converted`."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        if converted:
            capture.retrieve()
        count += 1
    capture.release()
    return count


def costs(bundle, folder, rounds):
    """Milliseconds of processor time that each frame of a video file takes, alone and in the stream: the least of all
    rounds, which take turns. Unlike rates they can be had on a machine that is busy with other things.
    """
    path = video(folder)
    frames = [frame.image for frame in islice(edgeinfer.frames(path), 40)]
    with edgeinfer.load(bundle, contexts=2, threads=1) as model:
        device, engine = model.device, model.engine
        tensors, placements = device.preprocess(frames[:1])
        outputs = engine.run(tensors)

        def streamed():
            with edgeinfer.stream(path, model) as stream:
                return sum(1 for _ in stream)

        works = {
            "decode": lambda: decoded(path, converted=False),
            "decode, and convert": lambda: decoded(path, converted=True),
            "preprocess": lambda: len([device.preprocess([image]) for image in frames]),
            "engine": lambda: len([engine.run(tensors) for _ in frames]),
            "postprocess": lambda: len([device.postprocess(outputs, placements) for _ in frames]),
            "pipeline": lambda: len([model(image) for image in frames]),
            "stream": streamed,
        }
        spans = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                start = time.process_time()
                count = work()
                spans[name].append(1e3 * (time.process_time() - start) / count)
    return {f"{name} ms": min(values) for name, values in spans.items()}


def cascade(detector, folder, rounds):
    """A picture with twenty boxes: the cascade beside its detector and one run of its classifier on twenty crops."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.fullsize import resnet50

    built = graphs.build(resnet50(), name="resnet50", batch=Batch(1, 20))
    classifier = write_bundle(built.model, built.spec, folder / "resnet50-batched")
    image = picture()
    with edgeinfer.load(detector, conf=0.001, iou=0.9, limit=20) as first, edgeinfer.load(classifier) as second:
        model = Cascade(first, second)
        found = first(image)
        crops = [model.cut(checked(image, "bgr"), box) for box in found.boxes]

        def parts():
            first(image)
            second.batch(crops)

        spans = interleaved({"cascade": lambda: model(image), "parts": parts}, rounds)
    medians = {f"{name}_ms": median(values) for name, values in spans.items()}
    return {**medians, "boxes": len(found), "ratio": medians["cascade_ms"] / medians["parts_ms"]}


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(model, minutes):
    """Resident memory over a long stream: its slope against its level, in percent over the whole time."""
    camera = Camera()
    try:
        began, rows = time.monotonic(), []
        with edgeinfer.stream(camera.address, model) as stream:
            for place, _ in enumerate(stream):
                elapsed = time.monotonic() - began
                if place % 100 == 0 and elapsed > 20:
                    rows.append((elapsed, resident_mb()))
                if elapsed > 60 * minutes:
                    break
    finally:
        camera.kill()
    times, levels = np.array(rows).T
    slope = np.polyfit(times, levels, 1)[0] * 60 * minutes
    return {"minutes": minutes, "mb": float(levels.mean()), "growth_percent": float(100 * slope / levels.mean())}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="of the camera whose results' ages are taken")
    parser.add_argument("--memory-minutes", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="one of ages, troubles, file, costs, cascade, memory")
    parser.add_argument("--json", type=Path, help="also write the numbers here; what is there of other parts stays")
    args = parser.parse_args()
    source = resources.files("edgeinfer_export") / "assets" / "pictograms.pt"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = export(str(source), folder / "yolov5n", Options())
        with edgeinfer.load(bundle) as model:
            list(islice(iter([model(picture())]), 1))
            parts = {
                "ages": lambda: ages(model, args.minutes),
                "troubles": lambda: troubles(model),
                "file": lambda: file_speed(bundle, folder, args.rounds),
                "costs": lambda: costs(bundle, folder, args.rounds),
                "cascade": lambda: cascade(bundle, folder, args.rounds),
                "memory": lambda: memory(model, args.memory_minutes),
            }
            results = {part: run() for part, run in parts.items() if args.only in (None, part)}
    print(json.dumps(results, indent=1))
    if args.json:
        kept = json.loads(args.json.read_text())["results"] if args.json.exists() else {}
        args.json.write_text(json.dumps({"context": context(), "results": {**kept, **results}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
