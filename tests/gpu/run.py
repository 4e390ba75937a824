"""All that a GPU has to pass, file by file, each in a process of its own: what loses the GPU takes nothing else down.

    python tests/gpu/run.py [--json FILE] [--seconds S]

The most telling comes first; compute-sanitizer goes over the kernels once more, where it is installed. What there is
no time for is left out by name, the least telling first, and the report is written anew after every step, so that a
run that is cut off has told all it knew. What is skipped is listed in the end. Exit code 1 if anything failed or is
left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from edgeinfer import machine, plans, wholefile  # noqa: E402
from edgeinfer.errors import BackendUnavailable  # noqa: E402

FILES = ("kernels", "device", "frames", "graphs", "engines", "residents", "nvmm", "libraries", "kit", "failures")
TOOLS = ("memcheck", "racecheck")
SHORTEST = 5  # seconds below which no step is begun
SHARE = 1 / 3  # of the time, at most, for one step
STUCK = 100  # seconds after which a test is thought to hang
PACKAGES = (
    *plans.LIBRARIES,
    *("numpy", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
    *("cupy-cuda12x", "cupy-cuda13x", "torch", "pycuda", "pytest"),
)


class Step(NamedTuple):
    name: str
    command: list[str]
    xml: Path


def steps(folder: Path) -> list[Step]:
    found = [Step(name, tests(name, folder / f"{name}.xml"), folder / f"{name}.xml") for name in FILES]
    # it comes with the CUDA toolkit, which is often in no PATH
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for tool in TOOLS:
        xml = folder / f"{tool}.xml"
        # what the driver refuses our own code looks at
        watch = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no"]
        found.append(Step(f"kernels under {tool}", [*watch, *tests("kernels", xml)], xml))
    return found


def tests(name: str, xml: Path) -> list[str]:
    options = ["--confcutdir=tests/gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider", f"--junitxml={xml}"]
    # a test that hangs shows where
    options += ["-v", "-rfE", "-o", f"faulthandler_timeout={STUCK}"]
    return [sys.executable, "-m", "pytest", *options, f"tests/gpu/test_gpu_{name}.py"]


def taken(step: Step, seconds: float) -> dict:
    """One step's row: {step, state, seconds, passed, failed, skipped}."""
    row = {"step": step.name, "state": "left out", "seconds": 0.0, "passed": 0, "failed": [], "skipped": {}}
    if not shutil.which(step.command[0]):
        return {**row, "state": "skipped", "skipped": {f"{step.command[0]} is not installed": 1}}
    if seconds < SHORTEST:
        return row
    print(f"\n{step.name}", flush=True)
    paths = [str(ROOT), str(ROOT / "export"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    started = time.monotonic()
    process = subprocess.Popen(step.command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(seconds)
        row["state"], row["failed"] = ("failed", [f"exit code {code}"]) if code else ("passed", [])
    except subprocess.TimeoutExpired:
        row["state"] = "cut off"
        os.killpg(process.pid, signal.SIGKILL)  # with what it started
        process.wait()
    row["seconds"] = round(time.monotonic() - started, 1)
    return {**row, **counted(step.xml, row)} if step.xml.exists() else row


def counted(xml: Path, row: dict) -> dict:
    """What pytest's report says: how many passed, which failed, how many were skipped for which reason."""
    passed, wrong, skipped = 0, [], Counter()
    for case in ET.parse(xml).iter("testcase"):
        marks = {mark.tag: mark.get("message", "") for mark in case}
        if "skipped" in marks:
            skipped[marks["skipped"]] += 1
        elif "failure" in marks or "error" in marks:
            told = marks.get("failure") or marks.get("error") or ""
            wrong.append(f"{case.get('name')}: {told.splitlines()[0] if told else ''}"[:300])
        else:
            passed += 1
    state = "skipped" if row["state"] == "passed" and not passed else row["state"]
    return {"state": state, "passed": passed, "failed": wrong or row["failed"], "skipped": dict(skipped)}


def context() -> dict:
    try:
        gpu = machine.gpu()._asdict()
    except BackendUnavailable as missing:
        gpu = {"missing": str(missing)}
    facts = {
        "gpu": gpu,
        "driver": machine.driver(),
        "python": platform.python_version(),
        "packages": machine.versions(*PACKAGES),
    }
    return {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}


def told(row: dict) -> str:
    skipped = sum(row["skipped"].values())
    text = f"{row['state']:9} {row['step']}: {row['passed']} passed, {len(row['failed'])} failed, {skipped} skipped"
    lines = [f"{text}, {row['seconds']} s", *(f"          failed: {one}" for one in row["failed"])]
    return "\n".join([*lines, *(f"          skipped ({count}): {why}" for why, count in row["skipped"].items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "gpu-test.json", help="the report")
    parser.add_argument("--seconds", type=float, default=3600, help="how long it may take in all")
    options = parser.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    report = {"context": context(), "steps": rows}
    print(json.dumps(report["context"], indent=1))
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(Path(folder)):
            # one that hangs leaves time for the others
            rows.append(taken(step, min(end - time.monotonic(), options.seconds * SHARE)))
            with wholefile.whole(options.json) as file:
                file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n" + "\n".join(map(told, rows)))
    print(f"wrote {options.json}")
    return int(any(row["state"] not in ("passed", "skipped") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
