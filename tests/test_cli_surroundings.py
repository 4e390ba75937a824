"""Verbs wherever they are run: without a home, with closed streams, with names of any bytes, on narrow terminals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import edgeinfer
from edgeinfer import cli, interpreter
from edgeinfer.bundle import Bundle
from edgeinfer.cli import _remedies
from edgeinfer.errors import BundleError, EdgeInferError
from edgeinfer.wholefile import check_writable
from edgeinfer_export import sources
from helpers import bundles
from helpers.patience import LONG_S

# PATH and the like; what a test sets comes on top
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LC_", "LANG", "HOME"))}
SURROUNDINGS = {
    "no home": {},
    "a home that is not there": {"HOME": "/proc/none"},
    "places that cannot be made": {"XDG_CACHE_HOME": "/dev/null/cache", "XDG_STATE_HOME": "/dev/null/state"},
    "a narrow terminal": {"COLUMNS": "20", "NO_COLOR": "1", "TERM": "dumb"},
    "plain ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def told(*words, env=None, redirected=""):
    """The process of a command line, after it has ended, by a shell that redirects its streams."""
    line = ["/bin/sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "edgeinfer", *map(str, words)]
    env = {**PLAIN, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})}
    return subprocess.run(line, capture_output=True, text=True, env=env, timeout=LONG_S, check=False)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_a_bundle_is_verified_and_shown_in_any_surroundings(detector, surroundings):
    env = SURROUNDINGS[surroundings]
    verified, shown = told("verify", detector, env=env), told("info", detector, env=env)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "is sound: 2 checks passed" in verified.stdout
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "runs   ort" in shown.stdout


def test_where_nobody_can_be_told_the_exit_code_tells(detector):
    for words, code in ((("info", "nothing"), 1), (("--nothing",), 2), (("info", detector), 0)):
        ended = told(*words, redirected="2>/dev/full")
        assert (ended.returncode, ended.stderr) == (code, "")
    ended = told("info", detector, redirected=">/dev/full")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 2)


BROKEN = {
    "cv2": ('ImportError("libGL.so.1: cannot open shared object file")', "verify {bundle}"),
    "onnx": ('AttributeError("module numpy has no attribute float")', "triton {bundle} -o {out}"),
    "grpc": ('OSError("version CXXABI_1.3.9 not found")', "serve {bundle} --port 0 --grpc-port 0"),
}


@pytest.mark.parametrize("library", BROKEN)
def test_a_library_that_is_here_and_does_not_load_is_named_with_its_place(detector, tmp_path, library):
    raised, words = BROKEN[library]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / f"{library}.py").write_text(f"raise {raised}")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])}
    ended = told(*words.format(bundle=detector, out=tmp_path / "out").split(), env=env)
    error, hint = ended.stderr.splitlines()[-2:]
    assert ended.returncode == 1
    assert f"is here ({tmp_path}/site/{library}.py) and cannot be loaded: " in error
    assert 'pip install "edgeinfer[' in hint


def test_a_backend_whose_library_does_not_load_is_passed_by(detector, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise OSError('libnothing.so: cannot open shared object file')")
    ended = told("info", detector, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "OSError: libnothing.so: cannot open shared object file" in ended.stdout


def test_a_process_of_our_own_imports_nothing_from_the_working_directory(tmp_path):
    for name in ("runpy", "json", "argparse", "edgeinfer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('what lies in the working directory was run')")
    line = interpreter.module("edgeinfer", "--version")
    ended = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=LONG_S, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"edgeinfer {edgeinfer.__version__}\n", "")


def test_a_working_directory_that_is_gone_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(EdgeInferError, match=r"report\.json cannot be written: No such file or directory"):
        check_writable(Path("report.json"))


def test_who_runs_in_a_folder_that_was_replaced_is_told_how_to_reach_the_new_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["verify", "."]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert (error, hint.partition(": ")[2]) == ("error: . holds no model.json", _remedies.GONE)


@pytest.mark.parametrize(
    ("redirected", "shown"), [(">&-", False), ("2>&-", True), ("<&-", True), (">&- 2>&- <&-", False)]
)
def test_closed_streams_are_nobodys_and_no_error(detector, redirected, shown):
    ended = told("verify", detector, redirected=redirected)
    assert (ended.returncode, "is sound" in ended.stdout, ended.stderr) == (0, shown, "")


@pytest.mark.parametrize("words", [("info", "--json"), ("compare", "red.png", "--json", "-")], ids=["flag", "dash"])
def test_json_for_a_stdout_that_is_closed_is_refused_and_not_lost(detector, words):
    ended = told(words[0], detector, *words[1:], redirected=">&-")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --json writes to stdout, which is closed\nhint: ")


def test_a_verb_that_tells_how_far_it_is_does_so_to_nobody_where_stderr_is_closed(detector, tmp_path):
    report = tmp_path / "report.json"
    ended = told("compare", detector, tmp_path, "--seconds", "0.1", "--json", report, redirected=">&- 2>&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")  # there are no pictures
    cv2.imwrite(str(tmp_path / "red.png"), bundles.picture("red"))
    ended = told("compare", detector, tmp_path / "red.png", "--seconds", "0.1", "--json", report, redirected=">&- 2>&-")
    assert (ended.returncode, len(json.loads(report.read_text())["models"])) == (0, 1)


def test_a_bundle_whose_path_is_no_text_is_refused_with_the_reason(detector, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff\xe9")
    detector.rename(odd)
    with pytest.raises(BundleError, match="its name is not UTF-8 text") as refused:
        Bundle.open(odd)
    assert "rename it" in refused.value.hint
    ended = told("verify", odd, env={"LC_ALL": "C.UTF-8"})
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 2)


def test_a_source_whose_name_is_no_text_is_refused_before_anything_is_done(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.pt")
    with pytest.raises(BundleError, match="its name is not UTF-8 text"):
        sources.find(odd)


@pytest.mark.parametrize("name", ["a b\nc", "größe 目录", "-v", "%s {x}"])
def test_a_bundle_may_be_called_anything_that_is_text(detector, tmp_path, name):
    odd = detector.rename(tmp_path / name)
    ended = told("verify", odd, env={"LC_ALL": "C.UTF-8"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(told("info", odd, "--json", env={"LC_ALL": "C.UTF-8"}).stdout)["bundle"] == str(odd)


def test_there_is_no_plan_to_forget_where_none_can_be_kept(detector):
    ended = told("tune", "--forget", detector, env=SURROUNDINGS["places that cannot be made"])
    assert (ended.returncode, "has no plan on this machine" in ended.stderr) == (2, True)
