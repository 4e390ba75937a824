"""Fixtures only; what tests share stands in tests/helpers/."""

import logging
import os
import signal
import threading

import hypothesis
import pytest

from edgeinfer import load
from edgeinfer.cli import main
from helpers import browser as browsers
from helpers import bundles, fake_gpu, fake_nvinfer
from helpers import pictogram_classifier as classifiers
from helpers.patience import LONG_S

LOGGERS = [logging.getLogger(name) for name in ("", "edgeinfer", "edgeinfer.serve")]

# a slow machine is no failure
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _own_places(tmp_path_factory):
    """Caches, plans and the GPU of whoever runs the tests are neither used nor touched; tests/gpu are the GPU's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


def _of_the_process():
    """What every test shares with all others, and would hand on to them."""
    told = [(one.name, *one.handlers, one.level, one.propagate, one.disabled) for one in LOGGERS]
    return told, [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


@pytest.fixture(autouse=True)
def _nothing_handed_on():
    before = _of_the_process()
    yield
    assert _of_the_process() == before


@pytest.fixture
def detector(tmp_path):
    """A bundle that finds one box named after the picture's colour."""
    return bundles.detect_bundle(tmp_path / "detector")


@pytest.fixture
def model(detector):
    """That bundle, loaded."""
    with load(detector) as loaded:
        yield loaded


@pytest.fixture
def classifier(tmp_path):
    """A bundle that names the picture's colour."""
    return bundles.classify_bundle(tmp_path / "classifier")


@pytest.fixture
def on(monkeypatch, tmp_path):
    """A machine with the stand-in GPU, a cache of its own and a release of TensorRT's stand-in; gives the library."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def machine(release="10.3.0", answers=()):
        fake_gpu.install(monkeypatch)
        return fake_nvinfer.install(monkeypatch, release, answers=answers)

    return machine


@pytest.fixture
def unserved(capfd):
    """`edgeinfer serve` with words that keep it from starting, in this process: gives (exit code, stdout, stderr)."""

    def serve(*words):
        guard = threading.Timer(LONG_S, os.kill, (os.getpid(), signal.SIGTERM))  # ends one that serves all the same
        guard.start()
        try:
            return main(["serve", "--port=0", "--grpc-port=0", *map(str, words)]), *capfd.readouterr()
        finally:
            guard.cancel()

    return serve


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window; the test is skipped where there is none."""
    return browsers.find(tmp_path)


@pytest.fixture(scope="session")
def pictogram_classifier(pytestconfig, tmp_path_factory):
    """A ResNet-50 that tells the pictograms apart: `.checkpoint`, `.size`, and folders `.calibration`, `.held_out`."""
    cache, name = getattr(pytestconfig, "cache", None), "pictogram-classifier"  # pytest may run without its cache
    return classifiers.cached(cache.mkdir(name) if cache else tmp_path_factory.mktemp(name))
