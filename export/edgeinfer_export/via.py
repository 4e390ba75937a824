"""Ultralytics, where it is installed, asked in a process of its own to export a checkpoint that the builders lack.

Unlike the builders it runs the code that a checkpoint holds. Nothing is ever installed, nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.errors import BackendUnavailable, ExportError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeinfer.spec import Batch, Size

TOOLS = ("ultralytics",)
TIMEOUT_S = 1800.0
OPSET = 17  # TensorRT 8 reads this much
REMEDY = 'pip install "edgeinfer[ultralytics]", or name a Python that has it: --via-python PATH'
# in the other process: a missing package is told from a failed export by the exit code
NOT_INSTALLED = 41
PROGRAM = f"""\
import json, sys
try:
    from ultralytics import YOLO
except ModuleNotFoundError as missing:
    print(missing, file=sys.stderr)
    sys.exit({NOT_INSTALLED})
source, options = sys.argv[1], json.loads(sys.argv[2])
YOLO(source).export(format="onnx", device="cpu", simplify=False, **options)
"""
QUIET = {
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "PIP_NO_INDEX": "1",
    "UV_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "CUDA_VISIBLE_DEVICES": "",
}


def check(tool: str, python: str = "") -> str:
    """`tool` if it is one of TOOLS, or empty and no `python` named to run it; UsageError otherwise."""
    if python and not tool:
        raise UsageError("--via-python names the Python of a tool, and no tool is named", hint="add --via ultralytics")
    if tool and tool not in TOOLS:
        raise UsageError(f"--via {tool!r} is not one of {', '.join(TOOLS)}", hint="see edgeinfer export -h")
    return tool


def missing(python: str) -> tuple[str, ...]:
    """What has to be there before `exported` can be called, as far as that shows without running anything."""
    if python:
        return () if shutil.which(python) else (f"{python} is not a program",)
    return () if importlib.util.find_spec("ultralytics") else (f"Ultralytics is not installed; {REMEDY}",)


@contextmanager
def exported(source: Path, size: Size | None, batch: Batch, *, python: str = "") -> Iterator[Path]:
    """The ONNX file that Ultralytics makes of a checkpoint, named after it, in a folder that goes when the block ends.

    `python`: the interpreter that has Ultralytics, by default this one. Raises BackendUnavailable, ExportError.
    """
    if not source.is_file():
        raise ExportError(f"{source} is not a file", hint="give the checkpoint that Ultralytics wrote")
    options: dict[str, object] = {"batch": batch.max, "dynamic": batch.open, "opset": OPSET}
    if size:
        options["imgsz"] = [size.height, size.width]
    with tempfile.TemporaryDirectory(prefix="edgeinfer-via-") as name:
        folder = Path(name)
        # Ultralytics writes beside the checkpoint: a copy keeps the user's folder as it is
        copy = shutil.copyfile(source, folder / f"model{source.suffix}")
        command = [python or sys.executable, "-c", PROGRAM, str(copy), json.dumps(options)]
        _run(command, folder, source.name)
        file = copy.with_suffix(".onnx")
        if not file.is_file():
            raise ExportError(f"Ultralytics wrote no ONNX of {source.name}", hint="try it by hand: yolo export")
        yield file.rename(folder / f"{source.stem}.onnx")


def _run(command: list[str], folder: Path, name: str) -> None:
    """Run to the end or to the limit; whatever the process started ends with it."""
    environment = {**os.environ, **QUIET, "YOLO_CONFIG_DIR": str(folder), "TMPDIR": str(folder)}
    log = folder / "log.txt"
    try:
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be started: {error.strerror}", hint="see --via-python") from error
    try:
        code = process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"Ultralytics did not finish {name} in {TIMEOUT_S:g} seconds: {_last_words(log)}",
            hint="export it to .onnx by hand, and that file here",
        ) from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == NOT_INSTALLED:
        raise BackendUnavailable(
            f"{command[0]} cannot import Ultralytics: {_last_words(log)}",
            hint=REMEDY,
        )
    if code:
        raise ExportError(
            f"Ultralytics could not export {name}: {_last_words(log)}", hint="export it to .onnx by hand, and that file"
        )


def _last_words(log: Path) -> str:
    """The last lines the process printed, without colours."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        text = file.read().decode("utf-8", "replace")
    lines = ["".join(filter(str.isprintable, line)).strip() for line in text.splitlines()]
    return "; ".join([line for line in lines if line][-3:])[-500:] or "it printed nothing"
