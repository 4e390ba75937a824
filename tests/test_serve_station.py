"""A station's queue: which jobs run together, and who of its workers takes the next."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from edgeinfer.serve.faces import Work
from edgeinfer.serve.limits import Limits
from edgeinfer.serve.station import Job, Station
from edgeinfer.spec import Batch
from helpers.patience import LONG_S, until


class Model:
    """Two calls at the same time; each is told of as it begins, and goes on when it may."""

    contexts = 2

    def __init__(self):
        self.spec = SimpleNamespace(name="model", batch=Batch(1, 2))
        self.gates, self.begun = {"raw": threading.Event(), "image": threading.Event()}, []

    def infer(self, tensors):
        self._call("raw")
        return tensors

    def batch(self, images, pixels):
        self._call("image")
        return [SimpleNamespace(timings_ms={}) for _ in images]

    def _call(self, key):
        self.begun.append(key)
        assert self.gates[key].wait(LONG_S)

    def close(self):
        pass


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def submit(model):
    loop = asyncio.new_event_loop()
    station = Station(model, Limits(delay=LONG_S))

    def submitted(key, rows=1):
        data = {} if key == "raw" else None
        station.submit(Job(Work(key, data, rows), loop.create_future(), lambda _: None))

    submitted.resting = lambda: len(station._changed._waiters)
    yield submitted
    for gate in model.gates.values():
        gate.set()
    station.close(LONG_S)
    loop.close()


def test_a_job_that_fits_no_waiting_batch_goes_to_the_worker_that_is_free(model, submit):
    until(lambda: submit.resting() == 2)
    submit("raw", rows=2)
    until(lambda: model.begun == ["raw"])
    submit("image bgr")  # is waited with for another
    until(lambda: submit.resting() == 1)
    model.gates["raw"].set()
    until(lambda: submit.resting() == 2)
    submit("raw", rows=2)
    until(lambda: sorted(model.begun) == ["image", "raw", "raw"])
