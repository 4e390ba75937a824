"""Beside other libraries on a real GPU: frames from CuPy, PyTorch and PyCUDA, and every engine backend that is here."""

import types

import numpy as np
import pytest

from edgeinfer import backends, load
from edgeinfer.cli import main
from edgeinfer.devices import cpu
from edgeinfer.errors import EdgeInferError
from edgeinfer.results import Detections
from edgeinfer.spec import Preprocess, Size
from gpu import models, standin
from gpu.hostengine import fetch
from helpers.rounding import assert_same
from kernels.specs import picture_spec

SPEC = picture_spec(Preprocess(Size(64, 96)))
# busy for so many of the GPU's ticks; neither a header nor another library is needed
SPIN = """
extern "C" __global__ void spin(long long ticks) {
  const long long start = clock64();
  while (clock64() - start < ticks) {}
}
"""
IMAGES = [models.noise(seed, 700, 900) for seed in range(4)]


@pytest.fixture(autouse=True)
def hardware():
    """Other libraries would meet the stand-in driver and take it for a real one."""
    if standin.controls() is not None:
        pytest.skip("needs a real GPU")


@pytest.fixture
def tensor(make):
    """A function of an image: the model's input made of it, three times over."""
    lane = make(SPEC)

    def function(image):
        found = [fetch(lane.device.preprocess([image])[0]["images"], lane.device) for _ in range(3)]
        assert all(np.array_equal(one, found[0]) for one in found)
        return found[0]

    return function


def expected(image):
    return cpu.Device(SPEC).preprocess([image])[0]["images"]


def test_a_cupy_array_still_being_written_is_waited_for(tensor):
    cupy = pytest.importorskip("cupy")
    spin = cupy.RawKernel(SPIN, "spin")
    for image in IMAGES:
        there, frame = cupy.asarray(image), cupy.empty(image.shape, cupy.uint8)
        cupy.cuda.Device().synchronize()
        with cupy.cuda.Stream(non_blocking=True):
            spin((1,), (1,), (np.int64(50_000_000),))
            frame.data.copy_from_device_async(there.data, there.nbytes)
            assert_same(tensor(frame), expected(image), SPEC.preprocess)


def test_a_torch_tensor_still_being_written_is_waited_for(tensor):
    torch = pytest.importorskip("torch")
    for image in IMAGES:
        there = torch.from_numpy(image).cuda()
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(50_000_000)
            frame = there.clone()
            assert_same(tensor(frame), expected(image), SPEC.preprocess)
            assert_same(tensor(frame[::2, ::3]), expected(image[::2, ::3]), SPEC.preprocess)


def test_work_on_the_default_stream_is_waited_for_where_no_stream_is_told(tensor):
    """As by PyCUDA and Numba."""
    torch = pytest.importorskip("torch")
    for image in IMAGES:
        there = torch.from_numpy(image).cuda()
        torch.cuda.synchronize()
        torch.cuda._sleep(50_000_000)
        frame = there.clone()
        facts = {**frame.__cuda_array_interface__, "stream": None, "version": 3}
        told = types.SimpleNamespace(__cuda_array_interface__=facts)
        assert_same(tensor(told), expected(image), SPEC.preprocess)


def test_a_page_locked_torch_tensor_is_fetched_from_where_it_lies(tensor):
    torch = pytest.importorskip("torch")
    frame = torch.from_numpy(IMAGES[0]).pin_memory().numpy()

    assert_same(tensor(frame), expected(IMAGES[0]), SPEC.preprocess)


def test_pycudas_own_context_stays_current_and_its_arrays_are_frames(tensor):
    pycuda = pytest.importorskip("pycuda.driver")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    pycuda.init()
    context = pycuda.Device(0).make_context()
    try:
        frame = gpuarray.to_gpu(IMAGES[0])
        assert_same(tensor(frame), expected(IMAGES[0]), SPEC.preprocess)
        assert pycuda.Context.get_current() == context
    finally:
        context.pop()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return models.exported(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module", params=["trt", "rtx", "ort_gpu"])
def backend(request, bundle):
    """The name of an engine backend that is here, and has what it runs."""
    try:
        backends.load(request.param)
        target = models.target(request.param)
    except EdgeInferError as missing:
        pytest.skip(f"{request.param}: {missing}")
    assert not target or main(["build", str(bundle), "--compile", target]) == 0
    return request.param


def test_an_engine_finds_what_onnx_runtime_finds_on_the_cpu(bundle, backend):
    images, same, of = models.pictures(12), 0, 0
    with load(bundle, backend) as model, load(bundle, "ort") as reference:
        for image in images * 2:
            found, wanted = model(image), reference(image)
            assert isinstance(found, Detections)
            one, other = models.agreement(found, wanted)
            same, of = same + one, of + other
        assert not model.graph or backend == "ort_gpu"

    assert same >= 0.97 * of > 0


def test_sixteen_threads_on_an_engine_never_get_each_others_results(bundle, backend):
    with load(bundle, backend, contexts=4) as model:
        assert models.mixed(model, models.pictures(8), 10_000) == 0
