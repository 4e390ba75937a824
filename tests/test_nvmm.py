"""Pipelines whose frames lie in NVIDIA's own memory: a real GStreamer, a stand-in driver and libnvbufsurface."""

import json
import os
import subprocess
import sys

import pytest

from gpu import standin, surfaces
from helpers import pygobject
from helpers.patience import LONG_S

# `sys.argv`: the caps' format, what is done with the frames; appsrc gives 30 of them, of two surfaces in turns
PLAY = """
import ctypes, gc, json, sys
import numpy as np
import edgeinfer
from edgeinfer import sources
from edgeinfer.sources import gstreamer, nvbufsurface, opencv
from edgeinfer.devices import images
from edgeinfer.errors import EdgeInferError
from gpu import standin, surfaces

opencv.OPEN_MS = 100_000
HEIGHT, WIDTH, COUNT = 40, 62, 30
made = surfaces.Surfaces("libnvbufsurface.so")
pixels = [np.random.default_rng(seed).integers(0, 256, (HEIGHT * 3 // 2, WIDTH), np.uint8) for seed in (0, 1)]
given = [made.make(WIDTH, HEIGHT, 256, arrays=bool(seed)) for seed in (0, 1)]
for surface, picture in zip(given, pixels):
    made.fill(surface, picture.tobytes())

def fed(playing, description):
    pipeline, sink = built(playing, description)
    source = pipeline.get_by_name("source")
    for place in range(COUNT):
        content = ctypes.string_at(given[place % 2], ctypes.sizeof(nvbufsurface.Surface) + 32)
        buffer = playing._gst.Buffer.new_wrapped(content)
        buffer.pts = place * 33_000_000
        source.emit("push-buffer", buffer)
    source.emit("end-of-stream")
    return pipeline, sink

built, gstreamer.Playing._built = gstreamer.Playing._built, fed

class Model:
    group = contexts = 1
    def batch(self, frames, *, pixels="bgr"):
        return [images.picture(frame, pixels) for frame in frames]

caps = f'"video/x-raw(memory:NVMM),format={sys.argv[1]},width={WIDTH},height={HEIGHT},framerate=30/1"'
pipeline = f"gst:appsrc name=source format=time caps={caps} ! appsink sync=false"
found, error, hint = [], "", ""
try:
    if sys.argv[2] == "model":
        with edgeinfer.stream(pipeline, Model()) as sights:
            found = [list(seen.frame.image.shape) for seen in sights]
    else:
        for frame in sources.frames(pipeline):
            inside = sources.Frame(pixels[frame.index % 2], "", 0, 0, pixels="nv12")
            same = np.array_equal(frame.image, inside.image) and np.array_equal(frame.bgr(), inside.bgr())
            found.append([type(frame.image).__name__, frame.pixels, list(frame.image.shape), same])
        del frame
except EdgeInferError as refused:
    error, hint = str(refused), refused.hint
    refused.__traceback__ = None
gc.collect()
driver = standin.controls()
print(json.dumps([found, error, hint, driver.live() if driver else {}, made.images()]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the stand-ins are."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    pygobject.needed()
    made = tmp_path_factory.mktemp("jetson")
    try:
        (made / "driver").mkdir()
        standin.build(made / "driver")
        surfaces.build(made)
    except FileNotFoundError:
        pytest.skip("g++ is not installed")
    return made


def play(folders, form="NV12", how="frames"):
    libraries = os.pathsep.join([*map(str, folders), os.environ.get("LD_LIBRARY_PATH", "")])
    line, env = [sys.executable, "-c", PLAY, form, how], pygobject.environment(LD_LIBRARY_PATH=libraries)
    done = subprocess.run(line, env=env, check=False, capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_frames_of_a_real_pipeline_are_on_the_gpu_and_have_their_pixels(folder):
    found, error, _, left, (images, unmade) = play([folder, folder / "driver"])

    assert error == ""
    assert found == [["GpuImage", "nv12", [60, 62], True]] * 30
    assert left == {}
    assert (images, unmade) == (30, 30)


def test_a_model_on_the_cpu_ends_the_stream_with_the_pipeline_that_it_takes(folder):
    found, error, hint, _, _ = play([folder, folder / "driver"], how="model")

    assert found == []
    assert "uint8, got GpuImage" in error
    assert "! nvvidconv ! video/x-raw,format=NV12 ! appsink" in hint


def test_without_a_driver_the_error_names_the_pipeline_that_needs_none(folder):
    found, error, hint, _, _ = play([folder])

    assert found == []
    assert "its frames do not come to the GPU: this machine has no NVIDIA driver" in error
    assert "! nvvidconv ! video/x-raw,format=NV12 ! appsink" in hint


def test_other_pixels_in_nvidias_memory_are_refused_with_the_converter_that_helps(folder):
    found, error, hint, _, _ = play([folder, folder / "driver"], form="RGBA")

    assert found == []
    assert "gives RGBA pixels, not NV12" in error
    assert "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! appsink" in hint
