"""`--via ultralytics`: another process exports the checkpoint; a stand-in package shows what is asked of it."""

import json
import subprocess
from pathlib import Path

import pytest

from edgeinfer.bundle import Bundle
from edgeinfer.cli import main
from edgeinfer.errors import BackendUnavailable, ExportError
from edgeinfer.spec import Batch, Size
from edgeinfer_export import via
from helpers import foreign
from helpers.patience import gone, until

ONE = Batch(1, 1)
STAND_IN = """\
import json, os, pathlib, shutil, subprocess, sys, time
here = pathlib.Path(__file__).parent
class YOLO:
    def __init__(self, source):
        self.source = pathlib.Path(source)
        if self.source.read_bytes() == b"slow":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            here.joinpath("child.pid").write_text(str(child.pid))
            time.sleep(600)
    def export(self, **options):
        environment = {key: os.environ.get(key) for key in ("YOLO_AUTOINSTALL", "YOLO_OFFLINE", "PIP_NO_INDEX")}
        here.joinpath("asked.json").write_text(json.dumps([str(self.source), options, environment]))
        if self.source.read_bytes() == b"broken":
            print("\\033[31mearlier words")
            raise RuntimeError("this head cannot be traced")
        if self.source.read_bytes() != b"nothing":
            shutil.copy(here / "model.onnx", self.source.with_suffix(".onnx"))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package named ultralytics that other processes import; gives its folder."""
    folder = tmp_path / "site" / "ultralytics"
    foreign.save(foreign.yolov8(size=("h", "w"), batch="n"), folder / "model.onnx")
    (folder / "__init__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return folder


def checkpoint(tmp_path, content=b"weights"):
    file = tmp_path / "models" / "yolo99x.pt"
    file.parent.mkdir()
    file.write_bytes(content)
    return file


def test_the_checkpoint_is_exported_elsewhere_and_wrapped(tmp_path, stand_in):
    source, target = checkpoint(tmp_path), tmp_path / "out"

    words = ["--via", "ultralytics", "--imgsz", "64,96", "--batch", "1-4"]
    assert main(["export", str(source), "-o", str(target), *words]) == 0
    spec = Bundle.open(target).spec
    asked, options, environment = json.loads((stand_in / "asked.json").read_text())
    assert (spec.name, spec.provenance.source, spec.batch) == ("yolo99x", "yolo99x.pt", Batch(1, 4))
    assert options["imgsz"] == [64, 96]
    assert (options["format"], options["dynamic"], options["opset"]) == ("onnx", True, 17)
    assert environment == {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "PIP_NO_INDEX": "1"}
    assert list(source.parent.iterdir()) == [source]
    assert not Path(asked).parent.exists()


def test_what_is_wrong_with_its_onnx_is_told_of_the_checkpoint(tmp_path, stand_in, capsys):
    source, words = checkpoint(tmp_path), ["--via", "ultralytics", "-o", str(tmp_path / "out")]
    foreign.save(foreign.yolov8(size=(64, 96), batch="n"), stand_in / "model.onnx")
    assert main(["export", str(source), *words, "--imgsz", "96"]) == 1
    (stand_in / "model.onnx").write_bytes(b"nonsense")
    assert main(["export", str(source), *words]) == 1

    fixed, broken = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    start = "error: yolo99x.pt, exported by ultralytics: yolo99x.onnx "
    assert fixed == f"{start}has a fixed input of 64x96, and --imgsz 96x96 was asked for"
    assert broken.startswith(f"{start}is not an ONNX file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"broken", "could not export yolo99x.pt: .*RuntimeError: this head cannot be traced"),
        (b"nothing", "no ONNX of"),
    ],
)
def test_what_it_says_when_it_fails_is_told(tmp_path, stand_in, content, message):
    with (
        pytest.raises(ExportError, match=message) as caught,
        via.exported(checkpoint(tmp_path, content), Size(64, 96), Batch(1, 1)),
    ):
        pass
    assert "\033" not in str(caught.value)
    assert not list(tmp_path.glob("edgeinfer-via-*"))


def test_a_process_that_hangs_is_ended_with_all_it_started(tmp_path, stand_in, monkeypatch):
    source, child, wait = checkpoint(tmp_path, b"slow"), stand_in / "child.pid", subprocess.Popen.wait

    def begun(process, timeout=None):
        """The limit counts from when the stand-in has started its child."""
        if timeout is not None:
            until(lambda: child.exists() and child.read_text())
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", begun)
    monkeypatch.setattr(via, "TIMEOUT_S", 1)
    with pytest.raises(ExportError, match=r"did not finish yolo99x\.pt"), via.exported(source, None, ONE):
        pass
    until(lambda: gone(int(child.read_text())))


def test_without_ultralytics_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "ultralytics.py").write_text("raise ModuleNotFoundError('No module named torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with (
        pytest.raises(BackendUnavailable, match="No module named torch") as caught,
        via.exported(checkpoint(tmp_path), None, ONE),
    ):
        pass
    assert "edgeinfer[ultralytics]" in caught.value.hint


@pytest.mark.parametrize("words", [["--via", "ultralytics"], []])
def test_a_python_that_is_none_or_runs_nothing_is_wrong_usage(tmp_path, capsys, words):
    assert main(["export", str(checkpoint(tmp_path)), *words, "--via-python", str(tmp_path / "python")]) == 2
    assert "--via-python" in capsys.readouterr().err


def test_a_model_the_builders_do_not_know_points_to_ultralytics(tmp_path, capsys):
    yaml = Path(__file__).parent.parent / "golden" / "checkpoints" / "dtypes.pt"

    assert main(["export", str(yaml), "-o", str(tmp_path / "out")]) == 1
    assert "--via ultralytics" in capsys.readouterr().err
