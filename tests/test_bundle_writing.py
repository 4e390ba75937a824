"""Bundles are written all or nothing, whoever else writes, and whoever was killed at it."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from pkgutil import resolve_name

import pytest

from edgeinfer import bundle as bundle_module
from edgeinfer.bundle import writing
from edgeinfer.errors import BundleError
from helpers.nobody import nobody
from helpers.patience import LONG_S, until


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def opened(folder):
    """What this process has open in there."""
    paths = map(os.path.realpath, Path("/proc/self/fd").iterdir())
    return [path for path in paths if path.startswith(str(folder))]


def test_a_write_leaves_no_file_open(detector, dead):
    for _ in range(3):
        (detector.parent / f".detector.{dead}.0123abcd").mkdir()
        with writing(detector) as fresh:
            (fresh / "model.json").touch()
    assert opened(detector.parent) == []


def test_a_failed_write_leaves_the_old_bundle_and_nothing_else(detector):
    before = names(detector)
    with pytest.raises(RuntimeError), writing(detector) as fresh:
        (fresh / "half").write_text("x")
        raise RuntimeError

    assert names(detector) == before
    assert names(detector.parent) == ["detector"]


class NoExchange:
    """A C library without renameat2."""

    def __init__(self, _):
        pass


def test_a_signal_that_breaks_off_the_removal_of_a_hidden_folder_leaves_nothing_of_it(detector, monkeypatch):
    removed, unlink = [], os.unlink

    def interrupted(path, **where):
        unlink(path, **where)
        removed.append(path)
        if len(removed) == 2:
            raise KeyboardInterrupt

    def write():
        with writing(detector) as fresh:
            for name in ("model.json", "one", "two", "three"):
                (fresh / name).touch()
            monkeypatch.setattr(os, "unlink", interrupted)
            raise RuntimeError

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(detector.parent) == ["detector"]
    assert opened(detector.parent) == []


@pytest.mark.parametrize("library", [bundle_module.ctypes.CDLL, NoExchange], ids=["exchange", "none"])
def test_a_write_replaces_the_whole_bundle(detector, monkeypatch, library):
    monkeypatch.setattr(bundle_module.ctypes, "CDLL", library)
    with writing(detector) as fresh:
        (fresh / "new").write_text("x")

    assert names(detector) == ["new"]
    assert names(detector.parent) == ["detector"]


def test_the_old_bundle_is_there_until_the_new_one_is(detector, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    if not bundle_module._exchange(tmp_path / "one", tmp_path / "two"):
        pytest.skip("this file system cannot exchange two folders")
    monkeypatch.setattr(Path, "rename", None)
    with writing(detector) as fresh:
        (fresh / "new").touch()
    assert names(detector) == ["new"]


def test_an_old_bundle_that_stepped_aside_steps_back_where_the_new_one_cannot_take_its_place(detector, monkeypatch):
    before, rename = names(detector), Path.rename

    def refused(path, target):
        if target == detector and not path.name.endswith("-old"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(path, target)

    monkeypatch.setattr(bundle_module.ctypes, "CDLL", NoExchange)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(BundleError, match="No space left"), writing(detector) as fresh:
        (fresh / "new").touch()
    assert names(detector) == before
    assert names(detector.parent) == ["detector"]


def test_a_folder_that_is_made_and_cannot_be_opened_does_not_stay(tmp_path, monkeypatch):
    def refused(path, *_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr("edgeinfer.workfolder.os.open", refused)
    with pytest.raises(BundleError, match="Too many open files"), writing(tmp_path / "bundle"):
        pass
    assert names(tmp_path) == []


def test_a_bundle_appears_where_it_was_meant_to_though_the_program_went_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with writing(Path("not/yet/there")) as fresh:
        (fresh / "model.json").touch()
        monkeypatch.chdir("/")
    assert names(tmp_path / "not/yet") == ["there"]


@pytest.mark.parametrize("exchanged", [True, False])
def test_who_stands_in_a_bundle_that_is_replaced_stands_in_the_new_one(tmp_path, monkeypatch, exchanged):
    if not exchanged:
        monkeypatch.setattr("edgeinfer.bundle._exchange", lambda *_: False)
    (tmp_path / "bundle").mkdir()
    monkeypatch.chdir(tmp_path / "bundle")
    with writing(Path()) as fresh:
        (fresh / "model.json").touch()
    assert names(Path()) == ["model.json"]


def test_a_place_that_no_bundle_can_take_is_refused_with_another_and_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name, message, hint in (
        ("file", "exists and is not a folder", "choose another -o DIR"),
        ("folder", "holds other files, but no model.json", "choose another -o DIR"),
        ("link", "is a link, which would be replaced", f"say -o {tmp_path / 'folder'}"),
        ("file/bundle", "cannot be written", "check free space and permissions, then run again"),
    ):
        with pytest.raises(BundleError, match=message) as refused, writing(tmp_path / name):
            pass
        assert refused.value.hint == hint
    assert names(tmp_path) == ["file", "folder", "link"]
    assert names(tmp_path / "folder") == ["thesis.tex"]


def test_an_empty_folder_becomes_the_bundle(tmp_path):
    with writing(tmp_path) as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == ["model.json"]


def test_all_of_a_bundle_is_on_the_disk_before_it_takes_its_place_and_the_place_after_that(tmp_path, monkeypatch):
    target, before, after = tmp_path / "bundle", set(), set()

    def fsync(handle):
        (after if target.exists() else before).add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    with writing(target) as fresh:
        (fresh / "golden").mkdir()
        (fresh / "golden" / "0.png").touch()
    assert before == {one.stat().st_ino for one in (target, target / "golden", target / "golden/0.png")}
    assert after == {tmp_path.stat().st_ino}


WRITER = """
import sys
from pathlib import Path
from edgeinfer.bundle import writing
while True:
    for text in ("old", "new"):
        with writing(Path(sys.argv[1])) as fresh:
            for part in ("model.json", "one", "two"):
                (fresh / part).write_text(text)
"""


def test_a_writer_killed_at_any_moment_leaves_one_whole_bundle(tmp_path):
    target = tmp_path / "bundle"
    chance = random.Random(7)
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        until(target.exists)
        time.sleep(chance.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len({(target / part).read_text() for part in ("model.json", "one", "two")}) == 1

    with writing(target) as fresh:
        (fresh / "model.json").write_text("last")
    assert names(tmp_path) == ["bundle"]
    assert os.listdir(target) == ["model.json"]


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_who_may_read_a_bundle_is_as_the_umask_has_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").write_text("{}")
    finally:
        os.umask(before)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "bundle" / "model.json").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.fixture
def dead():
    """The number of a process that is no more."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


@pytest.mark.parametrize("name", ["bundle", "[b]*?"])
def test_what_a_dead_writer_left_goes_whatever_number_it_had(tmp_path, dead, name):
    for left in (f".{name}.{dead}.0123abcd", f".{name}.{os.getpid()}.4567cdef", f".{name}.{dead}.0123abcd-old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.json").touch()
    with writing(tmp_path / name) as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == [name]


def test_what_another_writes_is_left_though_its_number_is_nobodys_here(tmp_path, dead, monkeypatch):
    """As it is where containers share a folder."""
    monkeypatch.setattr(os, "getpid", lambda: dead)
    with writing(tmp_path / "bundle") as others:
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").write_text("ours")
        (others / "model.json").write_text("theirs")
    assert (tmp_path / "bundle" / "model.json").read_text() == "theirs"
    assert names(tmp_path) == ["bundle"]


def refusing(error):
    """A function that raises this, whatever it is given."""

    def refused(*_):
        raise error

    return refused


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_the_number_tells_who_lives(tmp_path, dead, monkeypatch, error):
    monkeypatch.setattr("fcntl.flock", refusing(OSError(error, os.strerror(error))))
    (tmp_path / f".bundle.{dead}.0123abcd").mkdir()
    with writing(tmp_path / "bundle") as others:
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").touch()
        assert names(tmp_path) == sorted([others.name, "bundle"])
        (others / "model.json").touch()


def test_where_there_are_no_locks_another_users_writer_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", refusing(OSError(errno.ENOLCK, "no locks")))
    monkeypatch.setattr(os, "kill", refusing(PermissionError()))
    (tmp_path / ".bundle.7.0123abcd").mkdir()
    with writing(tmp_path / "bundle") as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == [".bundle.7.0123abcd", "bundle"]


@pytest.mark.parametrize("step", ["os.open", "fcntl.flock"])
def test_a_folder_that_another_sweeps_before_it_is_locked_is_made_again(tmp_path, monkeypatch, step):
    swept, take = [], resolve_name(step)

    def late(*given, **how):
        if not swept:
            swept.extend(tmp_path.iterdir())
            swept[0].rmdir()
        return take(*given, **how)

    monkeypatch.setattr(step, late)
    with writing(tmp_path / "bundle") as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == ["bundle"]
    assert opened(tmp_path) == []


def test_a_folder_that_may_be_written_into_but_not_listed_takes_a_bundle(tmp_path):
    drop = tmp_path / "drop"
    drop.mkdir()
    drop.chmod(0o333)
    with nobody(drop):
        for text in ("old", "new"):
            with writing(drop / "bundle") as fresh:
                (fresh / "model.json").write_text(text)
    drop.chmod(0o755)
    assert names(drop) == ["bundle"]
    assert (drop / "bundle" / "model.json").read_text() == "new"


def test_a_pipe_whose_name_is_like_a_writers_is_not_waited_for(tmp_path, dead):
    def write():
        with writing(tmp_path / "bundle") as fresh:
            (fresh / "model.json").touch()

    os.mkfifo(tmp_path / f".bundle.{dead}.0123abcd")
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(LONG_S)
    assert names(tmp_path) == [f".bundle.{dead}.0123abcd", "bundle"]


def test_hidden_folders_that_no_writer_made_stay(tmp_path, dead):
    kept = [
        f".bundle.{dead}.backup",
        f".bundle.{'9' * 20}.0123abcd",
        f".bundle.{dead}.0123abcd.old",
        f".bundle-2.{dead}.0123abcd",
        ".bundle.x.0123abcd",
    ]
    for name in kept:
        (tmp_path / name).mkdir()
    with writing(tmp_path / "bundle") as fresh:
        (fresh / "model.json").touch()
    assert names(tmp_path) == sorted([*kept, "bundle"])


def test_a_folder_that_the_system_holds_is_told_as_a_mount_point(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "_put", refusing(OSError(errno.EBUSY, os.strerror(errno.EBUSY))))
    with pytest.raises(BundleError, match="is a mount point") as refused, writing(tmp_path / "bundle"):
        pass
    assert refused.value.hint == "choose a folder inside it"
    assert names(tmp_path) == []
