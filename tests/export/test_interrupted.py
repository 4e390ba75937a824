"""An export that is killed, has no room or no right to write leaves the old bundle or the new one, and nothing else."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import ExportError
from edgeinfer_export import engines
from helpers import foreign
from helpers.nobody import NOBODY, nobody
from helpers.patience import LONG_S

ROOT = os.geteuid() == 0
# once as root, so that all is imported: nobody may not read where the package lies
DROPPED = """\
import os, sys
from edgeinfer.cli import main
source, target, warm, user = sys.argv[1:]
main(["export", source, "-o", warm])
os.setgid(int(user)), os.setuid(int(user))
sys.exit(main(["export", source, "-o", target]))
"""


def command(source, target, *more):
    return [sys.executable, "-m", "edgeinfer", "export", str(source), "-o", str(target), *more]


def run(words, **how):
    return subprocess.run(words, capture_output=True, text=True, timeout=10 * LONG_S, check=False, **how)


def two_lines(done):
    """Its error and its hint, once it is sure there is nothing else."""
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"], done.stderr
    return lines


@pytest.fixture
def source(tmp_path):
    return foreign.save(foreign.yolov8(), tmp_path / "models" / "tiny.onnx")


@pytest.fixture
def old(tmp_path, source):
    """A bundle named `old` where the export is to write."""
    target = tmp_path / "here" / "model"
    assert main(["export", str(source), "-o", str(target), "--name", "old"]) == 0
    return target


def killed_at_random(source, target, times, seed):
    """Export over `target` so often, killed at random times; gives how often each bundle was left."""
    chance, left = random.Random(seed), {"old": 0, "new": 0}
    start = time.perf_counter()
    assert run(command(source, target, "--name", "old")).returncode == 0
    usual_s = time.perf_counter() - start
    for place in range(times):
        # every part of the run gets its turn, its last part, where the bundle is written, most often
        wait_s = usual_s * (chance.random() if place % 3 else 0.5 + chance.random() / 1.5)
        process = subprocess.Popen(
            command(source, target, "--name", "new"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        bundle = Bundle.open(target)
        bundle.verify()
        left[bundle.spec.name] += 1
        assert [path.name for path in target.parent.iterdir() if not path.name.startswith(".")] == [target.name]
        if bundle.spec.name == "new":
            assert main(["export", str(source), "-o", str(target), "--name", "old"]) == 0
    return left


def settled(source, target):
    """The next export cleans up after those that were killed, and its bundle verifies on this machine."""
    assert main(["export", str(source), "-o", str(target)]) == 0
    assert main(["verify", str(target)]) == 0
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_killed_at_any_of_a_dozen_moments_it_leaves_a_whole_bundle(source, old):
    assert sum(killed_at_random(source, old, 12, seed=7).values()) == 12
    settled(source, old)


@pytest.mark.slow
def test_killed_at_any_of_fifty_moments_it_leaves_a_whole_bundle(source, old):
    left = killed_at_random(source, old, 50, seed=3)

    assert left["old"]
    assert left["new"]
    settled(source, old)


HALTED = """\
import sys, time
from edgeinfer.cli import main
made = []
def halt(event, words):
    if event == "os.mkdir" and str(words[0]).endswith("/golden"):
        made.append(words[0])
    elif made and event == "open":
        print("halted", flush=True)
        time.sleep(600)
sys.addaudithook(halt)
main(sys.argv[1:])
"""


def test_killed_while_it_writes_it_leaves_the_old_bundle(source, old):
    """The moment that is hard to hit by chance: the new folder is there, half full, and the old one still in place."""
    words = [sys.executable, "-c", HALTED, "export", source, "-o", old, "--name", "new"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert "halted\n" in process.stdout
        process.kill()

    assert list(old.parent.glob(".model.*/golden"))
    assert Bundle.open(old).spec.name == "old"
    settled(source, old)


def limited():
    """Files of this process may grow to 64 KiB: what a full disk does, without a disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


@pytest.mark.parametrize("words", [(), ("--preprocess", "graph")], ids=["plain", "graph"])
def test_a_full_disk_is_one_error_and_the_old_bundle_stays(source, old, words):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    done = run(command(source, old, *words), preexec_fn=limited)

    assert done.returncode == 1
    assert "cannot be written" in two_lines(done)[0]
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    assert list(old.parent.iterdir()) == [old]


def test_a_full_disk_leaves_no_engine_either(tmp_path):
    file = tmp_path / "best.engine"
    file.write_bytes(b"ftrt" + bytes(1 << 18))
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\n")
    words = ["--layout", "yolov5", "--imgsz", "64", "--labels", str(labels), "--precision", "fp16"]
    done = run(command(file, tmp_path / "out", *words), preexec_fn=limited)

    assert done.returncode == 1
    assert "cannot be written" in two_lines(done)[0]
    assert sorted(tmp_path.iterdir()) == [file, labels]


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_without_permission_it_is_one_error_and_nothing_is_written_as_root(tmp_path, source, old):
    """Root may write everywhere: the export runs as nobody."""
    for folder in (source, *source.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    words = [str(source), str(old), str(tmp_path / "warm"), str(NOBODY)]
    done = run([sys.executable, "-c", DROPPED, *words], cwd="/")

    assert done.returncode == 1
    assert "cannot be written: Permission denied" in two_lines(done)[0]
    assert Bundle.open(old).spec.name == "old"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_without_permission_it_is_one_error_and_nothing_is_written(source, old):
    old.parent.chmod(0o555)
    try:
        done = run(command(source, old))
    finally:
        old.parent.chmod(0o755)

    assert done.returncode == 1
    assert "cannot be written: Permission denied" in two_lines(done)[0]
    assert Bundle.open(old).spec.name == "old"


def first_said(capsys, *words):
    assert main([str(word) for word in words]) == 1
    return capsys.readouterr().err.splitlines()[0]


def test_where_nothing_can_be_written_is_said_before_the_source_is_read(tmp_path, capsys, monkeypatch):
    """The source would fail too: what is said first is what was looked at first."""
    source, file = tmp_path / "none.onnx", tmp_path / "engines"
    file.write_text("in the way")
    monkeypatch.chdir(tmp_path)
    for words in (("-o", file / "deep" / "bundle"), ()):
        assert "cannot be written: Not a directory" in first_said(capsys, "export", source, *words)
    assert list(tmp_path.iterdir()) == [file]


def test_a_build_that_may_not_write_compiles_nothing(old, capsys, monkeypatch):
    def compile_onnx(*_):
        raise ExportError("it was compiled")

    monkeypatch.setattr(engines, "compile_onnx", compile_onnx)
    words = ("build", old, "--compile", "rtx:sm86")
    assert "it was compiled" in first_said(capsys, *words)
    old.parent.chmod(0o555)
    try:
        with nobody(old):
            assert f"{old} cannot be written: Permission denied" in first_said(capsys, *words)
    finally:
        old.parent.chmod(0o755)


def test_a_folder_that_may_not_be_looked_into_is_one_error(tmp_path, capsys):
    closed = tmp_path / "closed"
    closed.mkdir(0)
    words = ("export", tmp_path / "none.onnx", "-o", closed / "bundle")
    first_said(capsys, *words)  # so that all is imported: nobody may not read where the package lies
    with nobody(closed):
        told = first_said(capsys, *words)
    assert told == f"error: {closed / 'bundle'} cannot be written: Permission denied"


def test_a_mount_point_is_refused_before_the_source_is_read(tmp_path, capsys):
    """A container's /out cannot be exchanged for another folder."""
    assert "/proc is a mount point" in first_said(capsys, "export", tmp_path / "none.onnx", "-o", "/proc")


def test_the_folder_one_stands_in_is_no_mount_point(tmp_path, source, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("x")
    assert ". holds other files" in first_said(capsys, "export", source, "-o", ".")


def test_a_link_is_told_from_a_file(tmp_path, source, capsys):
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    assert f"{tmp_path}/current is a link" in first_said(capsys, "export", source, "-o", tmp_path / "current")
    assert (tmp_path / "current").is_symlink()


def test_a_folder_of_other_files_is_never_replaced(tmp_path, source, capsys):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")

    assert main(["export", str(source), "-o", str(tmp_path / "precious")]) == 1
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.tex"]
