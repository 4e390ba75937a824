"""NVIDIA's own compiler on the CPU: TensorRT-RTX builds engines for GPUs that are not here."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from edgeinfer.bundle import Bundle, sha256_of
from edgeinfer.cli import main
from edgeinfer.errors import ExportError, UsageError
from edgeinfer.spec import Batch
from edgeinfer_export import builder, graphs
from edgeinfer_export.compile import Options, compile_onnx
from edgeinfer_export.engines import add_engines
from edgeinfer_export.targets import RTX_CAPABILITIES, parse
from helpers import bundles, fullsize, networks, seeded
from helpers.patience import until

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: NVIDIA has no wheel for this machine")

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from edgeinfer.cli import main; sys.exit(main())"
SM86 = Options(library="rtx", capabilities=(86,))


@pytest.fixture
def compiled(tmp_path):
    """Compiles a network with options; what else is given goes to the network."""

    def compile_one(network, options=SM86, **facts):
        return compile_onnx(network(tmp_path / "model.onnx", **facts), tmp_path / "engine.plan", options)

    return compile_one


def header(engine):
    """The version bytes of a TensorRT-RTX engine."""
    return engine.path.read_bytes()[:4]


@pytest.mark.parametrize("network", [networks.residual, networks.detector])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp16", np.float16)])
@pytest.mark.parametrize("capability", [75, 120])
def test_networks_compile_in_both_floats(compiled, network, precision, dtype, capability):
    options = Options(library="rtx", precision=precision, capabilities=(capability,))
    engine = compiled(network, options, dtype=dtype)
    assert header(engine) == b"vtrt"
    assert engine.sha256 == sha256_of(engine.path)
    assert engine.inputs == (("images", "float32", (1, 3, 32, 32)),)
    assert engine.outputs[0].dtype == "float32"


def test_an_engine_knows_what_it_is_for(compiled, tmp_path):
    import tensorrt_rtx

    artifact = compiled(networks.residual).artifact()
    assert (artifact.file, artifact.format, artifact.precision) == ("engine.plan", "rtx", "fp32")
    assert artifact.built_with == f"tensorrt_rtx {tensorrt_rtx.__version__}"
    assert artifact.target["sm"] == "86"
    assert artifact.target["onnx"] == sha256_of(tmp_path / "model.onnx")


def test_an_engine_takes_no_memory_of_its_own_while_it_runs(compiled, monkeypatch):
    """Or it could not be captured in a CUDA graph."""
    import tensorrt_rtx

    told, build = [], builder.Build.plan
    flag = tensorrt_rtx.BuilderFlag.REQUIRE_USER_ALLOCATION
    monkeypatch.setattr(
        builder.Build, "plan", lambda self, onnx: told.append(self.config.get_flag(flag)) or build(self, onnx)
    )
    compiled(networks.detector, dataclasses.replace(SM86, batch=(1, 4, 8)), batch="batch")
    assert told == [True]


def test_explicit_int8_compiles_for_turing_and_blackwell(compiled):
    options = Options(library="rtx", precision="int8", capabilities=(75, 120))
    assert compiled(networks.quantized, options).target["sm"] == "75+120"


def test_one_engine_takes_every_gpu(compiled):
    options = Options(library="rtx", capabilities=RTX_CAPABILITIES)
    assert compiled(networks.residual, options).target["sm"] == "75+80+86+89+120+121"


@pytest.mark.parametrize("network", [networks.residual, networks.detector])
def test_an_open_batch_gets_a_profile(compiled, network):
    engine = compiled(network, dataclasses.replace(SM86, batch=(1, 4, 8)), batch="batch")
    assert engine.inputs[0].shape == (-1, 3, 32, 32)
    assert engine.target["profile"] == "1-4-8"


def test_a_fixed_batch_does_not_stretch(compiled):
    with pytest.raises(ExportError, match="fixed batch of 1"):
        compiled(networks.residual, dataclasses.replace(SM86, batch=(1, 4, 8)))


def test_engines_repeat_byte_for_byte_in_other_processes(tmp_path):
    # of one that has seen a build refused it is not true: the library keeps something of that for the next
    networks.detector(tmp_path / "model.onnx")
    script = (
        "import sys; from pathlib import Path; from edgeinfer_export.compile import *\n"
        "print(compile_onnx(Path(sys.argv[1]), Path(sys.argv[2]), Options(library='rtx', capabilities=(86,))).sha256)"
    )
    hashes = [
        subprocess.run(
            [sys.executable, "-c", script, tmp_path / "model.onnx", tmp_path / f"{number}.plan"],
            env=environment(),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in range(2)
    ]
    assert len(hashes[0].strip()) == 64
    assert hashes[0] == hashes[1]


def test_options_that_the_library_has_are_taken(tmp_path):
    told = []
    options = dataclasses.replace(
        SM86,
        workspace_bytes=1 << 28,
        optimization_level=1,
        tf32=False,
        external_tactics=False,
        timing_cache=tmp_path / "timings",
        log_file=tmp_path / "logs" / "build.log",
    )
    networks.residual(tmp_path / "model.onnx")
    compile_onnx(tmp_path / "model.onnx", tmp_path / "engine.plan", options, lambda *step: told.append(step))
    assert told
    assert all(done <= total for _, done, total in told)
    assert "Opset version" in (tmp_path / "logs" / "build.log").read_text()


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible", "strip_weights"])
def test_options_that_rtx_has_not_are_refused(option):
    with pytest.raises(UsageError, match="TensorRT-RTX has no"):
        dataclasses.replace(SM86, **{option: True})


@pytest.mark.parametrize("capability", [72, 87, 90, 110])
def test_a_gpu_the_library_would_ignore_is_an_error(monkeypatch, compiled, capability):
    monkeypatch.setattr("edgeinfer_export.targets.check_rtx", int)  # as if our own list were wrong
    with pytest.raises(ExportError, match=f"does not compile for sm{capability}, only for sm75"):
        compiled(networks.residual, Options(library="rtx", capabilities=(capability,)))


@pytest.mark.parametrize(
    ("network", "capability", "reason", "remedy"),
    [
        (networks.suppressing, 86, "is of type NMS", "--nms runtime"),
        (networks.gemm, 75, "FP32 GEMM is not supported", "1x1 convolution"),
        (networks.quantized_bias, 86, "DequantizeLinear node /dequantizelinear", "unquantised biases"),
        (networks.asymmetric, 86, "Non-zero zero point", "symmetric"),
        (networks.unknown_operator, 86, "Det node /det: unsupported node", "without this operator"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_the_library_refuses_comes_with_reason_and_remedy(compiled, tmp_path, network, capability, reason, remedy):
    with pytest.raises(ExportError, match=reason) as caught:
        compiled(network, Options(library="rtx", capabilities=(capability,)))
    assert remedy in caught.value.hint
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_file_that_is_not_onnx_is_said_to_be(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not ONNX at all")
    with pytest.raises(ExportError, match=r"model\.onnx cannot be read") as caught:
        compile_onnx(tmp_path / "model.onnx", tmp_path / "engine.plan", SM86)
    assert "export it again" in caught.value.hint


def test_too_small_a_workspace_is_named(compiled):
    with pytest.raises(ExportError, match="workspace limit") as caught:
        compiled(networks.residual, dataclasses.replace(SM86, workspace_bytes=1))
    assert caught.value.hint == "raise --workspace"


def test_ctrl_c_stops_the_build_and_leaves_nothing(tmp_path):
    networks.residual(tmp_path / "model.onnx")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        compile_onnx(
            tmp_path / "model.onnx", tmp_path / "engine.plan", SM86, lambda *_: os.kill(os.getpid(), signal.SIGINT)
        )
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_is_one_error_and_leaves_the_old_engine(tmp_path):
    networks.residual(tmp_path / "model.onnx")
    (tmp_path / "engine.plan").write_bytes(b"old")
    script = (
        "import resource, sys; from pathlib import Path; from edgeinfer_export.compile import *\n"
        "from edgeinfer.errors import EdgeInferError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try: compile_onnx(Path('model.onnx'), Path('engine.plan'), Options(library='rtx', capabilities=(86,)))\n"
        "except EdgeInferError as error: print(error, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), check=True, capture_output=True, text=True
    )
    assert "engine.plan cannot be written: File too large check the path, free space" in done.stdout
    assert (tmp_path / "engine.plan").read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine.plan", "model.onnx"]


@pytest.mark.parametrize(("make", "batch"), [(fullsize.resnet50, 1), (fullsize.yolov5n, 1), (fullsize.yolov5n, 8)])
def test_published_networks_compile_for_every_gpu(tmp_path, make, batch):
    built = graphs.build(make(), batch=Batch(1, batch))
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(built.model.SerializeToString())
    options = Options(library="rtx", capabilities=RTX_CAPABILITIES, batch=(1, max(1, batch // 2), batch))
    engine = compile_onnx(onnx, tmp_path / "engine.plan", options)
    assert engine.inputs[0].name == built.spec.inputs[0].name
    assert engine.size_bytes > 4 * built.spec.provenance.parameters


@pytest.mark.parametrize(
    "name",
    [
        *("yolov3-tiny", "yolov5-transformer", "yolov5-unused", "yolov6", "yolov8-ghost"),
        *("yolov9e", "yolo11", "yolo12", "yolo26-end2end"),
    ],
)
def test_blocks_of_every_family_compile_for_an_open_batch(tmp_path, name):
    golden = seeded.Golden(name)
    built = graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 4))
    (tmp_path / "model.onnx").write_bytes(built.model.SerializeToString())
    engine = compile_onnx(tmp_path / "model.onnx", tmp_path / "engine.plan", dataclasses.replace(SM86, batch=(1, 2, 4)))
    assert engine.outputs == (("output0", "float32", (-1, *built.spec.outputs[0].shape[1:])),)


# -- into bundles


def test_engines_are_added_to_a_bundle(detector, capsys):
    assert main(["build", str(detector), "--compile", "rtx:sm86,rtx:sm80+sm89", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    bundle = Bundle.open(detector)
    bundle.verify()
    assert [artifact.file for artifact in bundle.spec.artifacts] == ["model.fp32.onnx", *(one["file"] for one in told)]
    assert [one["file"] for one in told] == ["rtx-sm86.fp32.plan", "rtx-sm80-sm89.fp32.plan"]
    assert bundle.spec.artifacts[1].target["onnx"] == bundle.spec.artifacts[0].sha256
    assert [file.name for file in detector.parent.iterdir()] == [detector.name]


def test_building_again_replaces_the_engine(detector):
    for _ in range(2):
        add_engines(detector, parse("rtx:sm86"))
    assert len(Bundle.open(detector).spec.artifacts) == 2


def test_a_bundle_behind_a_link_is_built_where_it_lies(detector, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(detector)
    assert main(["build", str(link), "--compile", "rtx:sm86"]) == 0
    assert link.is_symlink()
    assert "rtx-sm86.fp32.plan" in {one.file for one in Bundle.open(detector).spec.artifacts}


@pytest.mark.parametrize("hard_links", [True, False])
def test_other_files_and_golden_samples_survive(detector, monkeypatch, hard_links):
    if not hard_links:  # as on exFAT
        monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))
    (detector / "latest.onnx").symlink_to("model.fp32.onnx")
    (detector / "NOTES.txt").write_text("mine")
    (detector / "more").mkdir()
    (detector / "more" / "deep.txt").write_text("mine too")
    (detector / "again").symlink_to("more")
    before, place = Bundle.open(detector).spec, (detector / "NOTES.txt").stat().st_ino
    add_engines(detector, parse("rtx:sm86"))
    assert (detector / "more" / "deep.txt").read_text() == "mine too"
    assert (detector / "NOTES.txt").read_text() == "mine"
    assert ((detector / "NOTES.txt").stat().st_ino == place) == hard_links  # not copied where that is not needed
    assert (detector / "latest.onnx").readlink() == Path("model.fp32.onnx")
    assert (detector / "again").readlink() == Path("more")
    assert dataclasses.replace(Bundle.open(detector).spec, artifacts=before.artifacts) == before


def test_a_later_failure_keeps_the_engines_built_before_it(detector, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(detector), "--compile", "rtx:sm86,trt"]) == 1
    assert "error: tensorrt is not installed" in capsys.readouterr().err
    assert (detector / "rtx-sm86.fp32.plan").is_file()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--compile", "rtx:sm87"], 2, "Jetson Orin"),
        (["--compile", "rtx:sm86", "--precision", "int8"], 1, "holds no int8 ONNX"),
        (["--compile", "rtx:sm86", "--precision", "int4"], 2, "int4"),
        (["--compile", "rtx:sm86", "--batch", "1,2,4"], 2, "not within the 1-1"),
        (["--compile", "rtx:sm86", "--batch", "4"], 2, "three numbers"),
        (["--compile", "rtx:sm86", "--batch", "4,2,1"], 2, "not smallest, usual, largest"),
        (["--compile", "rtx:sm86", "--batch", "0,1,2"], 2, "not smallest, usual, largest"),
        (["--compile", "rtx:sm86", "--dla", "0"], 2, "has no DLA"),
        (["--compile", "rtx:sm86", "--log", "/proc/no/log"], 1, "log file"),
    ],
)
def test_what_cannot_be_built_is_one_error_line(detector, capsys, options, code, words):
    before = sorted(detector.rglob("*"))
    assert main(["build", str(detector), *options]) == code
    error, hint, *rest = [*capsys.readouterr().err.splitlines(), ""]
    assert error.startswith("error: ")
    assert words in error
    assert not rest or hint.startswith("hint: ")
    assert sorted(detector.rglob("*")) == before


def test_an_onnx_changed_since_the_export_is_not_compiled(detector, capsys):
    with (detector / "model.fp32.onnx").open("ab") as file:
        file.write(b"\0\0")
    assert main(["build", str(detector), "--compile", "rtx:sm86"]) == 1
    assert "sha256" in capsys.readouterr().err


def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new_one(tmp_path):
    bundle = bundles.detect_bundle(tmp_path / "detector")
    for moment in np.random.default_rng(0).uniform(0, 1, 8):
        killed_build(bundle, moment * 0.6)
        opened = Bundle.open(bundle)
        opened.verify()
        plans = {file.name for file in bundle.glob("*.plan")}
        assert plans == {artifact.file for artifact in opened.spec.artifacts if artifact.format == "rtx"}
    add_engines(bundle, parse("rtx:sm86"))
    assert [file.name for file in tmp_path.iterdir()] == ["detector"]


def killed_build(bundle, delay):
    """Start a build and kill it that many seconds after it has begun to work."""
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "build", str(bundle), "--compile", "rtx:sm86,rtx:sm89,rtx:sm120"],
        env=environment(),
        stdout=subprocess.DEVNULL,
    ) as process:
        until(lambda: process.poll() is not None or list(bundle.parent.glob(".detector.*")))
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")])}
