"""TensorRT's backend on the whole GPU path: a stand-in library whose work goes through the driver's streams."""

import ctypes

import numpy as np
import pytest

from edgeinfer import load, machine
from edgeinfer.devices._driver import Context, call, library
from edgeinfer.devices._memory import view
from gpu import models
from helpers import bundles, fake_nvinfer


class Pinned:
    """Page-locked arrays, one for each use, since a capture allows no fresh ones; freed together."""

    def __init__(self):
        self._held = {}

    def __call__(self, use, shape, dtype):
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if (use, shape) not in self._held:
            self._held[use, shape] = int(call("cuMemHostAlloc", nbytes, 0))
        return view(self._held[use, shape], nbytes).view(dtype).reshape(shape)

    def free(self):
        for address in self._held.values():
            call("cuMemFreeHost", address)


def through_the_driver(memory, kept):
    """As `Library.enqueue`, on a real stream: inputs down, arithmetic in a host function, outputs up."""

    def enqueue(stream, given, taken, compute):
        handle = library().CUstream(stream)
        sides = {
            name: memory((stream, name), shape, np.dtype(dtype))
            for name, (_, shape, dtype) in {**given, **taken}.items()
        }

        @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def work(_):
            for name, value in compute({name: sides[name] for name in given}).items():
                sides[name][...] = value

        kept.append((sides, work))
        for name, (pointer, _, _) in given.items():
            call("cuMemcpyDtoHAsync", sides[name].ctypes.data, pointer, sides[name].nbytes, handle)
        launch = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc
        launch.argtypes = [ctypes.c_void_p, type(work), ctypes.c_void_p]
        assert launch(stream, work, None) == 0
        for name, (pointer, _, _) in taken.items():
            call("cuMemcpyHtoDAsync", pointer, sides[name].ctypes.data, sides[name].nbytes, handle)

    return enqueue


@pytest.fixture
def bundle(monkeypatch, tmp_path, driver):
    """The pictogram detector for batches of 1 to 4, with an engine for the stand-in GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    here = machine.gpu()
    trt = fake_nvinfer.install(monkeypatch, "10.3.0", sm=here.sm)
    memory, kept = Pinned(), []
    trt.enqueue = through_the_driver(memory, kept)
    trt.current = lambda: int(call("cuCtxGetCurrent"))
    folder = models.exported(tmp_path)
    bundles.add_plan(folder, trt, gpu=here.name, os=machine.system())
    context = Context()
    yield folder
    with context:
        memory.free()
    context.close()
    machine.gpu.cache_clear()


def test_an_engine_runs_in_one_graph_and_finds_what_the_cpu_finds(bundle):
    images = models.pictures(2)
    with load(bundle) as model, load(bundle, "ort") as reference:
        assert model.backend == "trt"
        for picture in images * 3:
            found, wanted = model(picture), reference(picture)
            assert found.class_ids.tolist() == wanted.class_ids.tolist()
            assert np.allclose(found.boxes, wanted.boxes, atol=0.5)
        assert model.graph == ""


def test_batches_in_turns_do_not_mix(bundle):
    images = models.pictures(3)
    with load(bundle, self_test=False) as model:
        alone = [models.rows(model(picture)) for picture in images]
        for count in (3, 1, 3, 2, 1):
            together = [models.rows(found) for found in model.batch(images[:count])]
            assert [classes for classes, *_ in together] == [classes for classes, *_ in alone[:count]]
        assert model.graph == ""
