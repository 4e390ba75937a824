"""TensorRT's backend on the GPU device: the stand-in library's kernels, on real streams and captured in real graphs.

Only with the stand-in driver, in whose streams the library's work can reach the GPU's memory.
"""

import pytest

from edgeinfer import load, machine
from edgeinfer.devices._driver import probe
from edgeinfer.spec import Batch
from gpu.hostengine import HostFunction
from helpers import bundles, fake_gpu, fake_nvinfer, vendornames

COLORS = ("red", "green", "blue")


class Streams:
    """What the stand-in library takes for its streams: work goes to the driver's."""

    def __init__(self):
        self.held = []

    def __getitem__(self, stream):
        self.stream = stream
        return self

    def append(self, work):
        self.held.append(HostFunction(lambda _: work()))
        self.held[-1].enqueue(self.stream)


class Current:
    """True while a context of the driver's is current."""

    def __bool__(self):
        return bool(int(probe("cuCtxGetCurrent") or 0))


@pytest.fixture
def library(driver, monkeypatch, tmp_path):
    """A function of a release: the stand-in library of that release, on this driver's GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fake_gpu, "STREAMS", Streams())
    monkeypatch.setattr(fake_gpu.Context, "depth", Current())
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    monkeypatch.setattr(machine, "system", lambda: "linux-x86_64")
    return lambda release: fake_nvinfer.install(monkeypatch, release)


def labels(results):
    return [next(iter(one))[1] if one.task == "classify" else one.labels[one.class_ids[0]] for one in results]


@pytest.mark.parametrize("release", vendornames.releases())
def test_every_release_is_captured_and_replayed(library, tmp_path, release):
    folder = bundles.detect_bundle(tmp_path / "detector")
    plan = bundles.add_plan(folder, library(release), gpu="Stand-in")
    with load(folder, contexts=2) as model:
        for _ in range(3):
            for color in COLORS:
                assert labels([model(bundles.picture(color, 50, 40))]) == [color]
        assert (model.artifact, model.graph) == (plan.file, "")


def test_an_open_batch_is_captured_for_every_size(library, driver, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    bundles.add_plan(folder, library("10.3.0"), gpu="Stand-in")
    with load(folder) as model:
        for _ in range(3):
            for count in (4, 1, 3, 2):
                colors = [COLORS[place % 3] for place in range(count)]
                assert labels(model.batch([bundles.picture(color) for color in colors])) == colors
        assert model.graph == ""
        assert driver.live()["ready graph"] == 4


def test_where_one_context_serves_all_sizes_nothing_captured_is_kept(library, driver, tmp_path):
    folder = bundles.classify_bundle(tmp_path / "open", Batch(1, 4))
    bundles.add_plan(folder, library("8.5.3.1"), gpu="Stand-in")
    with load(folder, self_test=False) as model:
        for count in (4, 4, 4, 1, 4, 1, 2, 2):
            colors = [COLORS[place % 3] for place in range(count)]
            assert labels(model.batch([bundles.picture(color) for color in colors])) == colors
        assert "one context" in model.graph
        assert driver.live().get("ready graph", 0) == 0
