"""Frames of real GStreamer pipelines, where PyGObject is; in a process of its own, because it comes with the system."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import bundles, pygobject
from helpers.patience import LONG_S

READ = """
import json, sys, time
from edgeinfer import sources
from edgeinfer.sources import opencv
from edgeinfer.errors import SourceError
opencv.OPEN_MS = 100_000
found, error, began_ns = [], "", time.monotonic_ns()
try:
    for frame in sources.frames("gst:" + sys.argv[1]):
        after_ms = (frame.captured_ns - began_ns) / 1e6
        age_ms = (time.monotonic_ns() - frame.captured_ns) / 1e6
        bgr = frame.bgr()
        colors = bgr[10, :: bgr.shape[1] // 7].tolist()
        found.append([frame.pixels, frame.image.shape, frame.fps, [after_ms, age_ms], bgr.shape, colors])
except SourceError as refused:
    error = f"{refused}; {refused.hint}"
print(json.dumps([found, error]))
"""
# whether each of the last frames counts as captured after the one before it was taken
SET_BACK = """
import json, time, types
from edgeinfer import sources
from edgeinfer.sources import gstreamer, opencv
opencv.OPEN_MS = 100_000
fresh, captured, back_ns, taken_ns = [], gstreamer.Playing._captured, 0, 0

def shifted(playing, buffer):
    return captured(playing, types.SimpleNamespace(pts=buffer.pts - back_ns))

gstreamer.Playing._captured = shifted
for frame in sources.frames("gst:videotestsrc is-live=true num-buffers=60"):
    fresh.append(frame.captured_ns >= taken_ns)
    taken_ns = time.monotonic_ns()
    back_ns = 1_000_000_000 * (frame.index >= 45)
print(json.dumps(fresh[-10:]))
"""
# whether each frame is as old as it says at least, and whether it counts as of the moment; frames are taken slowly
SLOWLY = """
import json, sys, time
from edgeinfer import sources
from edgeinfer.sources import gstreamer, opencv
opencv.OPEN_MS, gstreamer.OLDEST_S = 100_000, 1.0
told, began_s, taken_ns = [], 0.0, 0
for frame in sources.frames("gst:" + sys.argv[1]):
    now_s = time.monotonic()
    began_s = began_s or now_s
    made_s = frame.index / 30
    told.append([now_s - frame.captured_ns / 1e9 >= now_s - began_s - made_s, frame.captured_ns >= taken_ns])
    taken_ns = time.monotonic_ns()
    time.sleep(0.1)
    if frame.index == 25:
        break
print(json.dumps(told))
"""
SHOWN = """
import json, sys
from edgeinfer import sources
from edgeinfer.sources import opencv
opencv.OPEN_MS = 100_000
print(json.dumps([frame.shown_ns // 1_000_000 for frame in sources.frames("gst:" + sys.argv[1])]))
"""
# how many files more are open after each of some tries with a pipeline that cannot be played
TRIED = """
import json, os, sys
from edgeinfer import sources
from edgeinfer.errors import SourceError
counts = []
for _ in range(6):
    try:
        list(sources.frames("gst:" + sys.argv[1]))
    except SourceError:
        counts.append(len(os.listdir("/proc/self/fd")))
print(json.dumps([after - before for before, after in zip(counts, counts[1:])]))
"""
# which of the messages that came beside frames are still waiting
SAID = """
import json
from edgeinfer.sources import gstreamer
kept = []
with gstreamer.playing("videotestsrc num-buffers=20", "it") as playing:
    kind, structure = playing._gst.MessageType.APPLICATION, playing._gst.Structure
    for _ in playing.frames(100_000):
        kept.append(playing._bus.pop_filtered(kind) is not None)
        playing._bus.post(playing._gst.Message.new_application(None, structure.new_empty("said")))
print(json.dumps(kept))
"""
SMALL = "width=322,height=242,framerate=25/1"


@pytest.fixture(scope="module", autouse=True)
def _needs_pygobject():
    pygobject.needed()


def printed(code, *words, **variables):
    """The JSON that this Python code prints, in a process that has the system's PyGObject."""
    line, env = [sys.executable, "-c", code, *words], pygobject.environment(**variables)
    done = subprocess.run(line, env=env, check=True, capture_output=True, text=True, timeout=LONG_S)
    return json.loads(done.stdout)


def read(pipeline):
    return printed(READ, pipeline)


def test_a_live_pipeline_gives_fresh_bgr_frames():
    found, error = read(f"videotestsrc is-live=true num-buffers=4 ! video/x-raw,{SMALL}")
    assert error == ""
    assert [frame[:3] for frame in found] == [["bgr", [242, 322, 3], 25.0]] * 4
    moments = [after_ms for *_, (after_ms, _), _, _ in found]
    assert moments[0] >= 0
    assert moments == sorted(moments)
    assert all(age_ms >= 0 for *_, (_, age_ms), _, _ in found)


def test_the_end_of_a_live_pipeline_that_nobody_asked_for_is_a_lost_camera():
    found, error = read(f"videotestsrc is-live=true ! video/x-raw,{SMALL} ! identity eos-after=4")
    assert 0 < len(found) <= 4
    assert f"stopped after {len(found)} frames" in error


def test_the_frames_of_a_file_tell_when_they_are_shown(tmp_path):
    clip = bundles.video(tmp_path / "clip.avi", [np.full((48, 64, 3), 99, np.uint8)] * 6, 25)
    assert printed(SHOWN, f"filesrc location={clip} ! decodebin") == [0, 40, 80, 120, 160, 200]


def test_time_stamps_that_are_set_back_make_no_frame_old():
    assert printed(SET_BACK) == [True] * 10


def test_a_live_pipeline_that_is_read_slowly_is_as_late_as_its_time_stamps_say_however_late_that_is():
    endless = "queue max-size-buffers=0 max-size-time=0 max-size-bytes=0"
    pipeline = f"videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 ! {endless}"
    assert [old for old, _ in printed(SLOWLY, pipeline)] == [True] * 26


def test_a_pipeline_that_is_not_live_is_of_the_moment_however_slowly_it_is_read():
    assert [new for _, new in printed(SLOWLY, f"videotestsrc ! video/x-raw,{SMALL}")] == [True] * 26


def test_a_pipeline_may_change_its_size_and_its_rate_may_be_ticks():
    part = "videotestsrc num-buffers=2 ! video/x-raw,format=NV12,framerate=1000/1,width={},height={} ! c."
    found, error = read(f"concat name=c ! appsink {part.format(64, 48)} {part.format(96, 64)}")
    assert error == ""
    assert [(shape, fps) for _, _, fps, _, shape, _ in found] == [([48, 64, 3], 30.0)] * 2 + [([64, 96, 3], 30.0)] * 2


@pytest.mark.parametrize("kind", ["BGR", "RGB", "BGRx", "NV12"])
def test_every_pixel_format_shows_the_same_colours(kind):
    found, error = read(f"videotestsrc num-buffers=1 ! video/x-raw,format={kind},{SMALL} ! appsink")
    assert error == ""
    ((_, _, _, _, shape, colors),) = found
    assert shape == [242, 322, 3]
    # the first bars of the test picture: white, yellow, cyan, green, magenta, red, blue at three quarters or more
    bars = np.array(colors)[1:7] > 90
    expected = [(0, 1, 1), (1, 1, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1), (1, 0, 0)]
    assert bars.astype(int).tolist() == [list(one) for one in expected]


@pytest.mark.parametrize(
    ("pipeline", "told"),
    [
        ("nonsense ! appsink", "is not a GStreamer pipeline"),
        ("filesrc location=/nowhere.mp4 ! decodebin", "Resource not found"),
        (f"videotestsrc num-buffers=1 ! video/x-raw,format=GRAY8,{SMALL} ! appsink", "gives GRAY8 pixels"),
        (
            "videotestsrc num-buffers=1 ! video/x-raw,format=NV12,width=65,height=48 ! appsink",
            "gives NV12 of 65x48",
        ),
        ("videotestsrc num-buffers=1 ! jpegenc ! appsink", "gives image/jpeg, not video/x-raw"),
        ("videotestsrc num-buffers=0", "stopped after 0 frames"),
    ],
)
def test_a_bad_pipeline_is_one_clear_error(pipeline, told):
    found, error = read(pipeline)
    assert found == []
    assert told in error


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
@pytest.mark.parametrize("pipeline", ["videotestsrc ! nonsense", "filesrc location=/nowhere.mp4 ! decodebin"])
def test_a_bad_pipeline_that_is_tried_again_and_again_leaves_no_file_open(pipeline):
    assert printed(TRIED, pipeline)[1:] == [0] * 4


def test_what_a_pipeline_says_beside_its_frames_is_not_kept_as_long_as_it_plays():
    assert printed(SAID) == [False] * 20


def test_doctor_says_that_pygobject_plays_pipelines():
    line = [sys.executable, "-m", "edgeinfer", "doctor"]
    done = subprocess.run(line, env=pygobject.environment(), check=True, capture_output=True, text=True, timeout=LONG_S)
    assert "gst: sources play through PyGObject, GStreamer 1." in done.stdout
    assert "do not work" not in done.stdout


def test_a_gstreamer_without_its_base_elements_is_told(tmp_path):
    code = "import json; from edgeinfer.sources import gstreamer; print(json.dumps(gstreamer.fault()))"
    folders = dict.fromkeys(("GST_PLUGIN_SYSTEM_PATH", "GST_PLUGIN_SYSTEM_PATH_1_0"), str(tmp_path))
    fault = printed(code, **folders, GST_REGISTRY=str(tmp_path / "registry"))
    assert fault == "GStreamer has no appsink and no videoconvert"
