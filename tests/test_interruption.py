"""Signals in work that no exception may be thrown through: heard, heeded between two calls, and handed on after it."""

import signal
import threading

import pytest

from edgeinfer import interruption


@pytest.fixture
def functions():
    """What functions of the program's own for SIGTERM and SIGHUP were told while the test ran; they are set."""
    told = []
    before = {
        number: signal.signal(number, lambda *given: told.append(given[0])) for number in interruption.SIGNALS[1:]
    }
    yield told
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_ctrl_c_is_noticed_and_the_second_raised():
    before = signal.getsignal(signal.SIGINT)
    asked = []
    with pytest.raises(KeyboardInterrupt), interruption.noticed() as stop:
        for _ in range(3):
            asked.append(stop.asked)
            signal.raise_signal(signal.SIGINT)
    assert asked == [False, True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_was_noticed_is_not_told_again():
    told, before = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: told.append(True))
    try:
        with interruption.noticed():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == []


def test_the_patient_hear_no_second_ctrl_c():
    with interruption.noticed(patient=True) as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert stop.asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_function_of_the_programs_own_hears_of_its_signal_when_the_work_is_over(functions, number):
    with interruption.noticed() as stop:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert (stop.asked, functions) == (True, [])
    assert functions == [number]


def test_a_ctrl_c_after_another_signal_is_raised_and_the_function_hears_of_the_other(functions):
    with pytest.raises(KeyboardInterrupt), interruption.noticed():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert functions == [signal.SIGTERM]


def test_a_keyboard_interrupt_of_the_programs_own_function_is_dropped(functions):
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with interruption.noticed():
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_ends_the_process_goes_on_doing_so():
    signals = interruption.SIGNALS[1:]
    before = [signal.getsignal(number) for number in signals]
    assert not any(map(callable, before))
    with interruption.noticed():
        assert [signal.getsignal(number) for number in signals] == before


def test_other_threads_leave_signals_as_they_are():
    def work():
        with interruption.noticed() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.asked))

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(signal.getsignal(signal.SIGINT), False)]
