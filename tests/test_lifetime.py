"""A model and its process: what an exit breaks off, and what a fork may do with what it inherits."""

import inspect
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import edgeinfer
from edgeinfer import lifetime
from edgeinfer.errors import InputError
from edgeinfer.spec import Batch
from helpers import bundles
from helpers.camera import camera
from helpers.interrupting import broken_off
from helpers.patience import LONG_S

BACKENDS = ("ort", "ov")
PICTURE = np.zeros((64, 64, 3), np.uint8)
HEAD = """
import os, sys, threading
import numpy as np
import edgeinfer

picture = np.zeros((64, 64, 3), np.uint8)
"""


def python(text, *arguments):
    """A script in a process of its own, with these as sys.argv[1:] -> (exit code, stdout, stderr)."""
    script = HEAD + textwrap.dedent(text)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_process_ends_as_it_wants_to_while_a_daemon_thread_calls_the_model(detector, backend):
    if backend == "ov":
        pytest.importorskip("openvino")
    text = """
        model, called = edgeinfer.load(sys.argv[1], sys.argv[2], contexts=2), threading.Event()

        def work():
            while True:
                model(picture)
                called.set()

        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        called.wait()
        sys.exit(3)
    """
    assert python(text, detector, backend) == (3, "", "")


def test_a_process_ends_as_it_wants_to_while_a_camera_that_nobody_closed_is_read(detector):
    text = """
        model = edgeinfer.load(sys.argv[1])
        seen = iter(edgeinfer.stream(sys.argv[2], model))
        next(seen)
        sys.exit(3)
    """
    with camera(fps=200) as shown:
        assert python(text, detector, shown.address)[0] == 3


def starts_threads_late():
    """Whether this Python starts a thread after its main thread's end; early releases of 3.12 refuse to."""
    text = """
        def work():
            threading.main_thread().join()
            threading.Thread(target=print, args=("started",)).start()

        threading.Thread(target=work).start()
    """
    done = python(text)
    if "can't create new thread" in done[2]:
        return False
    assert done == (0, "started\n", "")
    return True


def test_a_thread_may_go_through_a_stream_after_the_main_threads_end(detector, tmp_path):
    if not starts_threads_late():
        pytest.skip("this Python starts no thread after its main thread's end")
    text = """
        def work():
            threading.main_thread().join()
            with edgeinfer.load(sys.argv[1]) as model, edgeinfer.stream(sys.argv[2], model) as seen:
                print(len(list(seen)))

        threading.Thread(target=work).start()
    """
    clip = bundles.video(tmp_path / "clip.avi", [np.full((48, 64, 3), place, np.uint8) for place in range(40)])
    assert python(text, detector, clip) == (0, "40\n", "")


def test_the_main_thread_may_call_a_model_until_the_very_end(detector):
    text = """
        import atexit

        @atexit.register  # before the model's own: run after it
        def last():
            print(len(model(picture)))

        model = edgeinfer.load(sys.argv[1])
        model(picture)
    """
    assert python(text, detector) == (0, "0\n", "")


def test_an_exception_of_a_signal_loses_no_lane_wherever_it_comes(detector):
    """At random moments: some are between taking a lane and working with it, and some while it is given back."""
    text = """
        import gc, random, signal

        def alarmed(*_):
            rung.append(True)
            raise KeyboardInterrupt

        def work():
            while not rung:
                model(picture)

        signal.signal(signal.SIGALRM, alarmed)
        gc.disable()  # an exception that comes in what the collector calls is nobody's
        chance = random.Random(0)
        with edgeinfer.load(sys.argv[1], "null", contexts=2) as model:
            for _ in range(3000):
                rung = []
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 5e-4))
                    work()
                except KeyboardInterrupt:
                    assert not model._lanes._taken and not model._lanes._lock._is_owned()
        sys.exit(3)
    """
    assert python(text, detector) == (3, "", "")


def test_who_waits_for_a_lane_gets_it_though_a_signal_breaks_off_the_word_that_it_is_free(detector):
    """At every line on the way out of a call in turn; nobody calls again, which would wake the one who waits."""
    text = """
        sys.path.insert(0, sys.argv[2])
        from helpers.patience import LONG_S, until

        def broken_off(moment):
            model, lines = edgeinfer.load(sys.argv[1], "null"), []
            lanes = model._lanes
            waiting = threading.Thread(target=model, args=(picture,), daemon=True)

            def interrupt(frame, *_):
                # the lane has been given back; and what `with` does has no place for a signal to come
                if not lanes._taken and ("threading" in frame.f_code.co_filename or not lanes._lock._is_owned()):
                    lines.append(moment)
                    if len(lines) == moment:
                        raise KeyboardInterrupt
                return interrupt

            def work(_):
                waiting.start()
                until(lambda: lanes._changed._waiters)
                sys._getframe(1).f_trace = interrupt
                sys.settrace(interrupt)

            try:
                lanes.leased(work)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            waiting.join(LONG_S)
            assert not waiting.is_alive(), moment
            return len(lines) >= moment

        assert sum(map(broken_off, range(1, 25))) > 5
        sys.exit(3)
    """
    assert python(text, detector, Path(__file__).parent) == (3, "", "")


def test_a_signals_handler_may_close_the_model_wherever_it_comes(detector):
    """At every line of a call in turn; the call has a result or is told, and the next close frees everything."""
    text = """
        def closed_at(moment):
            model, lines = edgeinfer.load(sys.argv[1], "null"), []

            def interrupt(frame, event, _):
                if frame.f_code.co_filename.endswith(("pipeline.py", "lanes.py")):
                    lines.append(frame.f_lineno)
                    if len(lines) == moment:
                        model.close()
                return interrupt

            device = model.device
            sys.settrace(interrupt)
            try:
                model(picture)
            except edgeinfer.errors.InputError as error:
                assert "closed" in str(error)
            finally:
                sys.settrace(None)
            model.close()
            assert not model._lanes._taken and not device._tensor.size
            return len(lines) >= moment

        moment = 1
        while closed_at(moment):
            moment += 1
        print(moment > 20)
        sys.exit(3)
    """
    assert python(text, detector) == (3, "True\n", "")


def test_a_swap_that_a_signal_breaks_off_frees_no_engine_that_a_call_has(detector):
    text = """
        import gc, signal, time

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

        def call(lane):
            lanes.append(lane)
            running.set()
            while model._lanes.first is lane:
                time.sleep(0.001)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            broken_off.wait()
            gc.collect()
            print(lane.engine._session is not None)

        model, other = (edgeinfer.load(sys.argv[1]) for _ in range(2))
        lanes, running, broken_off = [], threading.Event(), threading.Event()
        thread = threading.Thread(target=model._lanes.leased, args=(call,))
        thread.start()
        running.wait()
        try:
            model.swap(other)
        except KeyboardInterrupt:
            pass
        broken_off.set()
        thread.join()
        print(lanes[0].engine._session is None, len(model(picture)))
    """
    assert python(text, detector) == (0, "True\nTrue 0\n", "")


def test_a_signals_handler_may_call_the_model_that_it_interrupts_if_there_is_a_context_for_it(detector):
    with edgeinfer.load(detector, "null", contexts=2) as model:
        assert len(model._lanes.leased(lambda _: model(PICTURE))) == 0
    with edgeinfer.load(detector, "null") as model:
        with pytest.raises(InputError, match="interrupted a call of it") as refusal:
            model._lanes.leased(lambda _: model(PICTURE))
        assert "more contexts" in refusal.value.hint
        assert len(model(PICTURE)) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_signals_handler_raises_while_an_engine_runs_stays_what_it_is(detector, backend):
    if backend == "ov":
        pytest.importorskip("openvino")
    text = """
        def late(frame, event, _):
            if frame.f_code.co_filename.endswith(sys.argv[2] + ".py") and event == "line":
                lines.append(frame.f_lineno)
                if len(lines) == moment:
                    raise TimeoutError("of the program's own")
            return late

        with edgeinfer.load(sys.argv[1], sys.argv[2]) as model:
            model(picture)
            lines, moment = [], 0
            while len(lines) >= moment:
                lines, moment = [], moment + 1
                sys.settrace(late)
                try:
                    model(picture)
                except TimeoutError:
                    pass
                finally:
                    sys.settrace(None)
            print(moment > 4)
        sys.exit(3)
    """
    assert python(text, detector, backend) == (3, "True\n", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_a_signal_broke_off_at_any_line_of_an_engine_leaves_the_next_right(tmp_path, backend):
    if backend == "ov":
        pytest.importorskip("openvino")
    pictures, moment = [bundles.picture(color) for color in ("red", "green", "blue")], 1
    with edgeinfer.load(bundles.classify_bundle(tmp_path / "namer", Batch(1, 3)), backend) as model:
        engine = [one for one in vars(type(model.engine)).values() if inspect.isfunction(one)]
        while model.batch(pictures[:1]) and broken_off(lambda: model.batch(pictures), moment, *engine):
            found = [[one[0][1] for one in model.batch(pictures[:count])] for count in (1, 3)]
            assert found == [["red"], ["red", "green", "blue"]], moment
            moment += 1
    assert moment > 10


FORK = """
    model = edgeinfer.load(sys.argv[1], sys.argv[2], threads=2, contexts=2)
    model(picture)
    lane = model._lanes._lease((0, "another thread's call"))
    child = os.fork()
    if child:
        del model._lanes._taken[0, "another thread's call"], lane
        model(picture)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["", "model.close()", "del model, lane", "with model: pass"], ids=str)
def test_a_fork_that_inherits_a_model_ends_whatever_it_does_with_it(detector, backend, how):
    if backend == "ov":
        pytest.importorskip("openvino")
    text = f"{textwrap.dedent(FORK)}\n{how}\nsys.exit(3)"
    assert python(text, detector, backend) == (3, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_call_in_a_fork_says_that_the_model_is_its_parents(detector):
    text = """
        try:
            model(picture)
        except edgeinfer.EdgeInferError as error:
            print(error, "|", error.hint)
        with edgeinfer.load(sys.argv[1]) as own:
            print(len(own(picture)))
        sys.exit(3)
    """
    code, said, complaint = python(textwrap.dedent(FORK) + textwrap.dedent(text), detector, "ort")
    assert (code, complaint) == (3, "")
    assert "loaded before this process was forked" in said
    assert "load the bundle in each process" in said
    assert said.endswith("\n0\n")


def test_the_end_comes_to_all_there_are_though_others_are_loaded_at_every_step_of_it(monkeypatch):
    monkeypatch.setattr(lifetime, "_GUESTS", type(lifetime._GUESTS)())
    monkeypatch.setattr(lifetime, "_ENDING", threading.Event())
    guests, halted, settled = [], [], []

    class Guest:
        def halt(self):
            halted.append(self)

        def settle(self):
            settled.append(self)

    def load():
        guests.append(Guest())
        lifetime.watch(guests[-1])

    def step(*_):
        load()
        return step

    load()
    sys.settrace(step)
    try:
        lifetime._end()
    finally:
        sys.settrace(None)
    assert len(guests) > 3
    assert guests[0] in settled
    load()
    assert {*halted} == {*guests}
