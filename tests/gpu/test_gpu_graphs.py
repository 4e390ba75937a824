"""A frame's work is captured once and replayed: what may be captured, what is kept, and what runs plainly instead."""

import gc
import threading
from contextlib import suppress

import numpy as np

from edgeinfer.devices import _framegraph
from edgeinfer.devices._driver import call
from edgeinfer.errors import DeviceError
from edgeinfer.spec import TopK
from gpu import models
from gpu.models import logits, through
from kernels.specs import classes_spec


def test_so_many_graphs_are_kept_and_no_more(make, driver):
    spec = classes_spec(TopK(3), 6)
    lane = make(spec, logits)
    for _ in range(2):
        for width in range(100, 100 + 30):
            for _ in range(2):
                assert len(through(lane, [models.noise(1, 90, width)])) == 1
            assert driver.live().get("ready graph", 0) <= _framegraph.CAPACITY
    assert driver.live()["ready graph"] >= _framegraph.CAPACITY - 1


def test_the_graph_that_goes_is_the_one_longest_out_of_use(make, driver):
    lane = make(classes_spec(TopK(3), 6), logits)
    often = models.noise(1, 90, 90)
    for width in range(100, 100 + _framegraph.CAPACITY):
        for image in (often, models.noise(1, 90, width)):
            for _ in range(2):
                through(lane, [image])
    before = driver.calls()
    through(lane, [image])
    through(lane, [often])
    spent = {name: driver.calls()[name] - before[name] for name in ("cuStreamBeginCapture", "cuGraphLaunch")}
    assert spent == {"cuStreamBeginCapture": 0, "cuGraphLaunch": 2}


def test_pictures_that_grow_leave_no_stale_graph(make):
    spec = classes_spec(TopK(3), 6)
    lane = make(spec, logits)
    for side in (50, 300, 50, 700, 300, 50):
        image = models.noise(side, side, side)
        wanted = lane.way.run([image], "bgr")[0][0].scores
        for _ in range(2):
            np.testing.assert_array_equal(lane.way.run([image], "bgr")[0][0].scores, wanted)
        np.testing.assert_allclose(wanted, models.on_the_cpu(spec, logits, [image])[0].scores, rtol=1e-5)


def test_a_graph_is_replayed_and_not_captured_again(make, driver):
    lane = make(classes_spec(TopK(3), 6), logits)
    image = models.noise(1, 30, 30)
    for _ in range(2):
        lane.way.run([image], "bgr")
    before = driver.calls()
    for _ in range(5):
        lane.way.run([image], "bgr")
    spent = {name: number - before.get(name, 0) for name, number in driver.calls().items()}

    assert {name: number for name, number in spent.items() if number and not name.startswith("cuCtx")} == {
        "cuEventRecord": 5,
        "cuGraphLaunch": 5,
        "cuStreamSynchronize": 5,
        "cuEventElapsedTime": 15,
        "cuPointerGetAttributes": 5,
    }


def test_an_engine_that_cannot_be_captured_runs_plainly_and_says_why(make):
    lane = make(classes_spec(TopK(3), 6), logits)
    lane.engine.uncapturable = "it says so"
    image = models.noise(1, 30, 30)

    assert len({str(through(lane, [image])) for _ in range(4)}) == 1
    assert lane.way.graph == "it says so"


def test_an_engine_that_spoils_its_capture_runs_plainly_from_then_on(make):
    spec = classes_spec(TopK(3), 6)
    lane = make(spec, logits)
    run = lane.engine.run

    def waits(inputs):
        outputs = run(inputs)
        lane.device.wait()
        return outputs

    lane.engine.run = waits
    image = models.noise(1, 30, 30)

    assert len({str(through(lane, [image])) for _ in range(4)}) == 1
    assert "capture failed: cuStreamSynchronize failed" in lane.way.graph


def test_no_frame_waits_while_another_thread_has_the_gpu_for_itself(make):
    lane = make(classes_spec(TopK(3), 6), logits)
    image, taken, done = models.noise(1, 30, 30), threading.Event(), threading.Event()

    def open_an_engine():
        with lane.device.context.alone():
            taken.set()
            done.wait()

    other = threading.Thread(target=open_an_engine)
    other.start()
    taken.wait()
    found = [str(through(lane, [image])) for _ in range(3)]
    assert not any(lane.way._graphs.values())
    done.set()
    other.join()
    found += [str(through(lane, [image])) for _ in range(3)]

    assert all(lane.way._graphs.values())
    assert (len(set(found)), lane.way.graph) == (1, "")


def test_what_others_left_in_circles_is_not_freed_within_a_capture(make, driver):
    lane = make(classes_spec(TopK(3), 6), logits)
    run, image = lane.engine.run, models.noise(1, 30, 30)

    class Buffer:
        """Another library's, freed when Python finds that nobody has it any more."""

        def __init__(self):
            self.itself = self

        def __del__(self):
            with suppress(DeviceError), lane.device.context:
                call("cuCtxSynchronize")

    def busy(inputs):
        Buffer()
        assert len([[] for _ in range(100_000)]) == 100_000  # as many as have Python look for circles
        return run(inputs)

    lane.engine.run, before = busy, driver.calls().get("cuStreamBeginCapture", 0)
    assert len({str(through(lane, [image])) for _ in range(3)}) == 1
    assert driver.calls()["cuStreamBeginCapture"] == before + 1
    assert (lane.way.graph, gc.isenabled()) == ("", True)
    gc.collect()


def test_captures_that_fail_now_and_then_are_tried_again(make):
    """As where another library's thread waited for the whole GPU meanwhile."""
    lane = make(classes_spec(TopK(3), 6), logits)
    run, left = lane.engine.run, [0]

    def waits(inputs):
        outputs = run(inputs)
        if left[0]:
            left[0] -= 1
            lane.device.wait()
        return outputs

    lane.engine.run = waits
    for width in (30, 40, 50):
        image, left[0] = models.noise(1, 30, width), 4  # plainly thrice, and in two captures between
        assert len({str(through(lane, [image])) for _ in range(5)}) == 1
    assert lane.way.graph == ""
    assert len([*filter(None, lane.way._graphs.values())]) == 3
