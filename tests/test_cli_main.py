"""The frame around every verb: light, quiet, one error line, and the promised exit codes."""

import argparse
import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer import cli, errors
from edgeinfer.cli import _types
from edgeinfer.errors import BackendUnavailable, BundleError, EdgeInferError, EngineError, UsageError

HEAVY = {"cv2", "numpy", "onnx", "onnxruntime", "edgeinfer_export"}


def command(*args, **options):
    """`edgeinfer ARGS` in a process of its own."""
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([sys.executable, "-m", "edgeinfer", *args], check=False, **options)


def failing(monkeypatch, error):
    """Make one verb raise."""

    def run(_):
        raise error

    monkeypatch.setattr("edgeinfer.cli.doctor.run", run)


def test_help_needs_no_heavy_library():
    code = "import sys; from edgeinfer import cli; cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stderr.split())


def test_every_verb_has_help_and_an_example(capsys):
    for verb in cli.verbs():
        assert cli.main([verb, "--help"]) == 0
        assert f"edgeinfer {verb}" in capsys.readouterr().out.partition("example")[2]


def test_a_verb_is_there_because_its_file_is():
    assert {"demo", "doctor", "export", "info", "run", "verify"} <= set(cli.verbs())


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgeinfer 0.")


@pytest.mark.parametrize("args", [[], ["nothing"], ["info"], ["run", "bundle"], ["doctor", "--nothing"]])
def test_wrong_usage_exits_with_2_and_two_lines(args, capsys):
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "hint"]


@pytest.mark.parametrize(
    ("words", "which"),
    [
        (["", "bundle", "a.png"], "the one after edgeinfer"),
        (["run", "", "a.png"], "the one after run"),
        (["run", "bundle", "rtsp://me:secret@door/", ""], "the one after rtsp://door/"),
        (["run", "bundle", "a.png", "--json", ""], "the one after --json"),
        (["run", "bundle", "a.png", "--classify="], "--classify="),
    ],
)
def test_an_empty_argument_is_no_working_directory_and_no_option_left_out(words, which, capsys):
    assert cli.main(words) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [f"error: an argument is empty: {which}", "hint: a variable of the shell may not be set"]


@pytest.mark.parametrize("words", [["doctor", "--nothing"], ["doctor", "nothing"]])
def test_what_a_verb_does_not_know_leads_to_its_own_help(words, capsys):
    assert cli.main(words) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: unrecognized arguments: {words[1]}",
        "hint: see edgeinfer doctor --help",
    ]


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        *((_types.points, text, value) for text, value in {"0": 0, "0.0": 0, "0%": 0, "2.5%": 2.5, "100": 100}.items()),
        *((_types.fraction, text, value) for text, value in {"0": 0, "0.5": 0.5, "1": 1}.items()),
        *((_types.milliseconds, text, value) for text, value in {"200": 200, ".5s": 500, "1.5 ms": 1.5}.items()),
        (_types.above_zero, "1e-9", 1e-9),
        (_types.count, "1", 1),
    ],
)
def test_a_number_that_can_be_meant_is_taken(kind, given, meant):
    assert kind(given) == meant


@pytest.mark.parametrize(
    ("kind", "refused", "told"),
    [
        (_types.points, ("-1", "-0.1%", "100.1", "nan", "%", "much"), "is not a number from 0 to 100"),
        (_types.fraction, ("-0.1", "1.1", "inf", "nan", "half"), "is not a number from 0 to 1"),
        (_types.above_zero, ("0", "-1", "inf", "1e999", "nan", "soon"), "is not a finite number above 0"),
        (_types.milliseconds, ("0", "0s", "-1ms", "9" * 400, "soon", "1.2.3", "s"), "is not a time above 0, such as"),
        (_types.count, ("0", "-1", "1.5", "many", str(2**31)), "is not a whole number from 1 to 2147483647"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_by_what_is_true(kind, refused, told):
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' {told}"):
            kind(text)


def test_an_error_is_one_line_and_its_hint_another(monkeypatch, capsys):
    failing(monkeypatch, EdgeInferError("it\nbroke", hint="mend\nit"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "error: it broke\nhint: mend it\n"


def test_an_unexpected_error_asks_for_a_report_and_shows_no_traceback(monkeypatch, capsys):
    failing(monkeypatch, ZeroDivisionError("by zero"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == (
        "error: unexpected ZeroDivisionError: by zero\n"
        "hint: run again with EDGEINFER_DEBUG=1, and report what it prints\n"
    )


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (ImportError("cv2.so: failed to map segment from shared object"), "ulimit -v"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (RuntimeError("PosixThread: pthread_create failed, error code: 11"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (BackendUnavailable("nothing runs: ort.so: failed to map segment from shared object"), "ulimit -v"),
        (BundleError("out cannot be written: Cannot allocate memory", hint="check free space"), "ulimit -v"),
        (EngineError("model.onnx: ONNX Runtime refused it: std::bad_alloc"), "ulimit -v"),
        (BundleError("out cannot be written: Too many open files", hint="check free space"), "ulimit -n"),
    ],
)
def test_a_limit_of_the_process_is_told_as_one(monkeypatch, capsys, error, limit):
    failing(monkeypatch, error)
    assert cli.main(["doctor"]) == 1
    told, hint = capsys.readouterr().err.splitlines()
    assert "unexpected" not in told
    assert limit in hint


def test_a_pipe_whose_reader_is_slow_is_told_as_no_limit(monkeypatch, capsys):
    full = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    error = EdgeInferError(f"standard output cannot be written: {full.strerror}", hint="check where it goes")
    error.__cause__ = full
    failing(monkeypatch, error)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err.endswith("\nhint: check where it goes\n")


KINDS = [one for one in vars(errors).values() if isinstance(one, type) and one is not EdgeInferError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_one_line_of_help(monkeypatch, capsys, kind):
    failing(monkeypatch, kind("broken"))
    assert cli.main(["doctor"]) == (2 if kind is UsageError else 1)
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: broken"
    assert hint.startswith("hint: ")
    assert len(hint) > len("hint: ")


def test_an_error_that_knows_better_says_its_own_help(monkeypatch, capsys):
    failing(monkeypatch, UsageError("broken", hint="mend it"))
    cli.main(["doctor"])
    assert capsys.readouterr().err == "error: broken\nhint: mend it\n"


def test_debugging_shows_the_traceback_too(monkeypatch, capsys):
    monkeypatch.setenv("EDGEINFER_DEBUG", "1")
    failing(monkeypatch, ZeroDivisionError("by zero"))
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "", "false"])
def test_debugging_can_be_switched_off(monkeypatch, capsys, value):
    monkeypatch.setenv("EDGEINFER_DEBUG", value)
    failing(monkeypatch, EdgeInferError("broken"))
    cli.main(["doctor"])
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_library_names_the_extra_that_brings_it(monkeypatch, capsys):
    failing(monkeypatch, ModuleNotFoundError("No module named 'cv2'", name="cv2"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith('error: OpenCV is not installed\nhint: pip install "edgeinfer[cpu]"')


def test_a_library_built_for_numpy_1_is_told_with_the_numpy_it_needs(monkeypatch, tmp_path, capsys):
    (tmp_path / "unloadable.py").write_text('raise ImportError("numpy.core.multiarray failed to import")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("edgeinfer.cli.doctor.run", lambda _: importlib.import_module("unloadable"))
    assert cli.main(["doctor"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: unloadable is here (")
    assert hint == 'hint: pip install "numpy<2": it was built for NumPy 1'


def test_a_full_disk_is_named(monkeypatch, capsys):
    failing(monkeypatch, OSError(28, "No space left on device", "out.json"))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("error: out.json: No space left on device\n")


def test_interruption_is_quiet(monkeypatch, capsys):
    failing(monkeypatch, KeyboardInterrupt())
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr() == ("", "")


def test_the_program_exits_with_the_code():
    assert command("info", "/nowhere").returncode == 1
    assert command("info").returncode == 2
    assert command("--version").returncode == 0


def test_a_reader_that_goes_away_is_no_error(detector):
    reading, writing = os.pipe()
    os.close(reading)
    done = command("info", detector, stdout=writing, stderr=subprocess.PIPE, capture_output=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_stdout_is_an_error_line(detector):
    with Path("/dev/full").open("w") as full:
        done = command("info", detector, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device\n")


# what these mean differs between verbs, and so do their words
OWN_WORDS = {
    *("--batch", "--budget", "--classify", "--compile", "--contexts", "--frames", "--html", "--json", "--max-age"),
    *("--name", "--output", "--save", "--seconds", "--help"),
}
OTHERS = {("triton", "--device"), ("build", "--precision"), ("export", "--precision")}  # not how a bundle runs here


def test_a_flag_that_several_verbs_have_is_declared_alike_in_all():
    (verbs,) = [one for one in cli._parser()._actions if one.dest == "verb"]
    seen = {}
    for verb, parser in verbs.choices.items():
        for action in parser._actions:
            name = action.option_strings[-1] if action.option_strings else "BUNDLE"
            own = name in OWN_WORDS or (verb, name) in OTHERS
            positional = not action.option_strings and (action.dest != "bundle" or action.nargs == "+")
            if not own and not positional:
                words = (action.help or "").partition(" (default")[0]
                seen.setdefault(name, {}).setdefault((words, action.metavar, str(action.type)), []).append(verb)
    assert {"--conf", "--iou", "--backend", "--no-plan", "BUNDLE"} <= seen.keys()
    assert {name: ways for name, ways in seen.items() if len(ways) > 1} == {}


def in_words(default):
    return f"{default:g}" if isinstance(default, float) else ",".join(default) if isinstance(default, list) else default


def test_every_flag_with_a_value_of_its_own_tells_it():
    (verbs,) = [one for one in cli._parser()._actions if one.dest == "verb"]
    flags = [(verb, flag) for verb, parser in verbs.choices.items() for flag in parser._actions]
    valued = [
        (verb, flag) for verb, flag in flags if flag.default not in (None, False, "", 0, [], "auto", "==SUPPRESS==")
    ]
    assert len(valued) > 15
    assert [(verb, flag.dest) for verb, flag in valued if f"default: {in_words(flag.default)}" not in flag.help] == []
