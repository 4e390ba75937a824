"""The machine as engines see it: GPUs, drivers, Jetsons, hidden and broken ones."""

import ctypes
import pwd
import subprocess
import sys

import pytest

import edgeinfer
from edgeinfer import cache, machine
from edgeinfer.errors import BackendUnavailable
from helpers import bundles


class Driver:
    """A CUDA driver with one Orin."""

    failing = ""

    def __init__(self, name):
        assert name == "libcuda.so.1"

    def __getattr__(self, call):
        def answer(*args):
            if call == self.failing:
                return 100
            if call == "cuDeviceGetName":
                args[0].value = b"Orin"
            elif call == "cuDeviceGetAttribute":
                args[0]._obj.value = {75: 8, 76: 7}[args[1]]
            elif call == "cuDriverGetVersion":
                args[0]._obj.value = 12060
            return 0

        return answer


@pytest.fixture
def driver(monkeypatch):
    machine.gpu.cache_clear()
    kind = type("Driver", (Driver,), {})
    monkeypatch.setattr(ctypes, "CDLL", kind)
    yield kind
    machine.gpu.cache_clear()


def test_the_gpu_is_what_the_driver_says(driver):
    assert machine.gpu() == ("87", "Orin", "12.6")


def test_a_jetsons_gpu_is_named_after_its_board(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    files = {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3", "proc/device-tree/model": "Orin Nano\0"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.gpu() == ("87", "Orin Nano", "12.6")


@pytest.mark.parametrize(
    "call", ["cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDriverGetVersion"]
)
def test_every_call_of_the_driver_is_checked(driver, call):
    driver.failing = call
    with pytest.raises(BackendUnavailable, match=rf"no usable GPU \({call} gave 100\)"):
        machine.gpu()


def test_a_machine_without_a_driver_says_so(driver, monkeypatch):
    def missing(_name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver") as caught:
        machine.gpu()
    assert "--gpus all" in caught.value.hint


@pytest.mark.parametrize("node", machine.NODES)
@pytest.mark.parametrize(("visible", "seen"), [(None, True), ("0", True), ("", False), ("-1", False)])
def test_a_gpu_shows_in_its_device_files_unless_it_is_hidden(monkeypatch, tmp_path, node, visible, seen):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert not machine.has_gpu()
    (tmp_path / node).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / node).touch()
    assert machine.has_gpu() is seen


def test_the_jetson_release_is_read_from_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.l4t() == ""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    assert machine.l4t() == "36.4.3"


def test_a_cached_file_is_whole_or_absent(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.read("kind", "name") is None
    assert cache.write("kind", "name", b"content")
    assert cache.read("kind", "name") == b"content"
    file = cache.path("kind", "name")
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.read("kind", "name") is None


def test_what_a_killed_writer_left_in_the_cache_goes_with_the_next_write(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "import os, pathlib; pathlib.Path.replace = lambda *_: os._exit(9)\n"
    code += "from edgeinfer import cache; cache.write('kind', 'name', b'half')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert cache.read("kind", "name") is None
    assert len(cache.names("kind")) == 1
    assert cache.write("kind", "name", b"content")
    assert cache.names("kind") == ["name"]


def test_what_is_cached_is_nobody_elses_to_read_and_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.names("kind") == []
    assert [cache.write("kind", name, b"content") for name in ("b", "a")] == [True, True]
    assert cache.names("kind") == ["a", "b"]
    for path in (cache.path("kind", ""), cache.path("kind", "a")):
        assert path.stat().st_mode & 0o077 == 0


def test_what_cannot_take_its_place_in_the_cache_leaves_nothing_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.path("kind", "name").mkdir(parents=True)
    assert not cache.write("kind", "name", b"content")
    assert cache.names("kind") == ["name"]


def test_a_cache_that_cannot_be_written_stops_nothing(monkeypatch, tmp_path):
    (tmp_path / "edgeinfer").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not cache.write("kind", "name", b"content")
    assert cache.read("kind", "name") is None


@pytest.mark.parametrize("named", ["", "relative/cache", "~/cache"])
def test_nothing_is_kept_below_the_working_directory(monkeypatch, tmp_path, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert cache.write("kind", "name", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    monkeypatch.setenv("HOME", "no/place")
    assert machine.xdg_folder("XDG_CACHE_HOME", ".cache").is_absolute()


@pytest.mark.parametrize("home", ["nameless", "/dev/null"])
def test_a_user_without_a_home_can_run_models(monkeypatch, detector, caplog, home):
    """As containers and system services have them."""
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home == "nameless":
        monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["no such user"])
    else:
        monkeypatch.setenv("HOME", home)
    with edgeinfer.load(detector) as model:
        assert len(model(bundles.picture("red"))) == 1
    assert cache.read("anything", "none") is None
    assert caplog.text == ""
