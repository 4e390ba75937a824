"""Ctrl-C from a terminal, SIGTERM and SIGHUP in the middle of each verb: an orderly end, with nothing left behind."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading

import cv2
import pytest

from edgeinfer.cli import _ending
from helpers import bundles
from helpers.patience import LONG_S, gone, said, until
from helpers.scenery import SOURCE

# what every process starts with: its sessions stop at the so many'th call, which is told by a file, while `gate` stands
HELD = """
import os, time
from pathlib import Path
import onnxruntime
folder, left = Path(os.environ["HELD"]), [int(os.environ["HELD_AT"])]
def held(run):
    def work(*words, **named):
        left[0] -= 1
        if left[0] == 0:
            (folder / f"at-work-{os.getpid()}").touch()
            while (folder / "gate").exists():
                time.sleep(0.01)
        return run(*words, **named)
    return work
for name in ("run", "run_with_iobinding"):
    setattr(onnxruntime.InferenceSession, name, held(getattr(onnxruntime.InferenceSession, name)))
"""
# by the call that is interrupted: the first of a verb, or one in the middle of its work
CASES = {
    "verify": ("verify {bundle}", 1),
    "validate": ("validate {bundle} {labelled}", 3),
    "run": ("run {bundle} {video} --save {out}/v --json {out}/r.jsonl", 12),
    "export": ("export {checkpoint} -o {out}/b", 1),
    "export int8": ("export {checkpoint} -o {out}/b --precision int8 --calibrate {pictures} {few}", 4),
    "tune": ("tune {bundle} --images {labelled} --seconds 1", 2),
    "compare": ("compare {bundle} {bundle} {labelled} --seconds 1", 2),
    "compare --parity": ("compare {bundle}@ort {bundle}@ov {labelled} --parity", 2),
    "profile": ("profile {bundle} --seconds 1", 12),
    "profile by LoadGen": ("profile {bundle} --scenario server --seconds 1", 12),
    "profile two": ("profile {bundle} {bundle} --seconds 1", 12),
}


@pytest.fixture
def places(tmp_path):
    """What the command lines speak of."""
    for name in ("out", "tmp", "start", "labelled", "pictures"):
        (tmp_path / name).mkdir()
    (tmp_path / "gate").touch()
    (tmp_path / "start" / "sitecustomize.py").write_text(HELD)
    images = [{"id": number, "file_name": f"{number}.png", "width": 64, "height": 48} for number in range(1, 9)]
    boxes = [{"id": one["id"], "image_id": one["id"], "category_id": 1, "bbox": [16, 12, 32, 24]} for one in images]
    categories = [{"id": number, "name": name} for number, name in enumerate(bundles.COLORS)]
    labels = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "labelled" / "annotations.json").write_text(json.dumps(labels))
    for number in range(1, 9):
        for folder in ("labelled", "pictures"):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), bundles.picture("green", 48, 64) - number)
    bundles.video(tmp_path / "video.avi", [bundles.picture("green", 48, 64)] * 40)
    return {
        "bundle": bundles.detect_bundle(tmp_path / "bundle"),
        "labelled": tmp_path / "labelled",
        "pictures": tmp_path / "pictures",
        "few": "--few-calibration-images",
        "video": tmp_path / "video.avi",
        "checkpoint": SOURCE,
        "out": tmp_path / "out",
    }


def at_a_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup


def interrupted(words, number, held_at, tmp_path):
    """(exit code, what stood on the terminal) of a command line that is interrupted in the middle of its work."""
    folders = os.pathsep.join([str(tmp_path / "start"), *sys.path])
    env = {**os.environ, "PYTHONPATH": folders, "TMPDIR": str(tmp_path / "tmp"), "HELD": str(tmp_path)}
    terminal, inner = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", *words],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**env, "HELD_AT": str(held_at)},
        start_new_session=True,
        preexec_fn=at_a_terminal,  # noqa: PLW1509 - one thread has no locks to hold
    )
    os.close(inner)
    told = []
    reader = threading.Thread(target=lambda: told.append(said(terminal)))
    reader.start()
    try:
        until(lambda: list(tmp_path.glob("at-work-*")) or process.poll() is not None)
        if number == signal.SIGINT:
            os.write(terminal, termios.tcgetattr(terminal)[6][termios.VINTR])
        else:
            process.send_signal(number)
        (tmp_path / "gate").unlink()
        code = process.wait(LONG_S)
    finally:
        process.kill()
        process.wait()
        reader.join(LONG_S)
        os.close(terminal)
    return code, "".join(told)


# SIGTERM where work is done in other processes, is not to be thrown through, or has files that are not whole
@pytest.mark.parametrize(
    ("case", "number"),
    [(case, signal.SIGINT) for case in CASES]
    + [(case, signal.SIGTERM) for case in ("tune", "profile by LoadGen", "profile two", "export int8", "run")]
    + [(case, signal.SIGHUP) for case in ("tune", "compare --parity", "run")],
)
def test_an_interrupted_verb_ends_in_order_and_leaves_nothing_behind(places, tmp_path, case, number):
    words, held_at = CASES[case]
    code, told = interrupted([word.format(**places) for word in words.split()], number, held_at, tmp_path)
    assert (code, "Traceback" in told, "error:" in told) == (128 + number, False, False), told
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []
    # a video that is not whole is none, nor are its results: only of cameras is there no other end
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    workers = [int(path.name.rpartition("-")[2]) for path in tmp_path.glob("at-work-*")]
    assert workers
    until(lambda: all(map(gone, workers)))


def test_what_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _ending.orderly() as ending:
            signal.raise_signal(signal.SIGHUP)
        assert ending.asked == 0
    finally:
        signal.signal(signal.SIGHUP, before)


EARLY = """
import os, runpy, signal, sys
def hear(event, words):
    if event == "import" and words[0] == "edgeinfer.cli._ending":
        os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.addaudithook(hear)
runpy.run_module("edgeinfer", run_name="__main__")
"""


def test_ctrl_c_before_the_command_line_is_there_ends_without_a_word():
    line = [sys.executable, "-c", EARLY, "doctor"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


SIGNALLED = """
import asyncio, os, sys
from edgeinfer.cli import main
make = asyncio.events.new_event_loop
def signalled():
    os.kill(os.getpid(), int(sys.argv[1]))
    return make()
asyncio.events.new_event_loop = signalled
sys.exit(main(["serve", *sys.argv[2:], "--port=0", "--grpc-port=0"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_that_is_signalled_before_it_listens_ends_without_a_word(tmp_path, number):
    line = [sys.executable, "-c", SIGNALLED, str(int(number)), str(bundles.detect_bundle(tmp_path / "bundle"))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
