"""`edgeinfer doctor` on this machine, and on made-up ones."""

import json
import sys
from pathlib import Path

import pytest

from edgeinfer import cli, machine
from edgeinfer.cli import _bounds, _libraries, _machine
from edgeinfer.cli._findings import Finding, output, probe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def found(findings, topic):
    return [finding for finding in findings if finding.topic == topic]


def test_it_never_fails_and_names_the_main_parts(capsys):
    assert cli.main(["doctor"]) == 0
    topics = {line.split()[1] for line in capsys.readouterr().out.splitlines() if line[:1] in {"o", "n", "p"}}
    assert {"system", "python", "processor", "onnxruntime", "opencv"} <= topics


def test_json_holds_the_same_findings(capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.cli.doctor.LOOKS", (lambda: [Finding("disk", "problem", "full", "empty it")],))
    assert cli.main(["doctor", "--json"]) == 0
    finding = {"topic": "disk", "state": "problem", "text": "full", "remedy": "empty it"}
    assert json.loads(capsys.readouterr().out) == {"problems": 1, "findings": [finding]}


def test_a_problem_is_printed_with_its_remedy(capsys, monkeypatch):
    monkeypatch.setattr("edgeinfer.cli.doctor.LOOKS", (lambda: [Finding("disk", "problem", "full", "empty it")],))
    cli.main(["doctor"])
    assert capsys.readouterr().out == "problem  disk  full\n         remedy: empty it\n\n1 problem\n"


def test_a_look_that_fails_is_a_note(capsys, monkeypatch):
    def broken():
        raise RuntimeError("strange")

    monkeypatch.setattr("edgeinfer.cli.doctor.LOOKS", (broken,))
    assert cli.main(["doctor"]) == 0
    assert "note  broken  cannot be told: RuntimeError: strange" in capsys.readouterr().out


@pytest.fixture
def root(tmp_path):
    """A made-up file system of a machine."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.fixture(autouse=True)
def no_programs(monkeypatch):
    monkeypatch.setattr(_machine, "output", lambda *_: "")


def test_an_x86_processor_shows_the_instructions_that_matter(root):
    table = "processor : 0\nmodel name : Fast CPU\nflags : fpu avx2 f16c avx512_vnni amx_int8\n"
    (finding,) = _machine.processor(root({"proc/cpuinfo": table}))
    assert finding.text == f"Fast CPU, {machine.cores()} cores, avx2 f16c avx512_vnni amx_int8"


def test_an_arm_processor_is_named_by_its_board(root):
    files = {"proc/cpuinfo": "processor: 0\nFeatures\t: fp asimd asimddp\n", "proc/device-tree/model": "A board\0"}
    (finding,) = _machine.processor(root(files))
    assert finding.text == f"A board, {machine.cores()} cores, asimd asimddp"


def test_memory_in_short_supply_is_a_note(root):
    (finding,) = _machine.memory(root({"proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 500000 kB\n"}))
    assert (finding.state, finding.text) == ("note", "4.1 GB, 0.5 GB of it free")


def test_gpus_are_listed_by_nvidia_smi(root, monkeypatch):
    monkeypatch.setattr(_machine, "output", lambda *_: "RTX 4090, 8.9, 24564 MiB, 550.54\nRTX 3060, 8.6, 12288 MiB, 1")
    first, second = _machine.gpu(root({}))
    assert first == Finding("gpu", "ok", "RTX 4090, compute 8.9, 24564 MiB, driver 550.54")
    assert second.text.startswith("RTX 3060")
    monkeypatch.setattr(_machine, "output", lambda *_: "Orin (nvgpu), [N/A], [N/A], 540.4.0")
    assert _machine.gpu(root({})) == [Finding("gpu", "ok", "Orin (nvgpu), driver 540.4.0")]


def test_gpus_are_found_without_nvidia_smi(root):
    files = {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\nGCC version",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ: 1\n",
    }
    assert _machine.gpu(root(files)) == [Finding("gpu", "ok", "NVIDIA GeForce RTX 3060, driver 535.104.05")]


def test_a_card_without_its_driver_is_a_problem(root):
    files = {"sys/bus/pci/devices/1/vendor": "0x10de\n", "sys/bus/pci/devices/1/class": "0x030000\n"}
    (finding,) = _machine.gpu(root(files))
    assert finding.state == "problem"
    assert "driver is not loaded" in finding.text


def test_no_gpu_is_a_note(root):
    assert [finding.state for finding in _machine.gpu(root({}))] == ["note"]


JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
    # of JetPack 6.2; before, the first was the fastest
    "etc/nvpmodel.conf": """
# < POWER_MODEL ID=9 NAME=MAXN >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=1 >
""",
}


FULL_SPEED = "for full speed: sudo nvpmodel -m 2 && sudo jetson_clocks"


@pytest.mark.parametrize(
    ("said", "state", "text", "remedy"),
    [
        ("NV Power Mode: MAXN\n0", "ok", "MAXN", ""),
        ("NV Power Mode: MAXN_SUPER\n2", "ok", "MAXN_SUPER", ""),
        ("NV Power Mode: 15W\n1", "note", "15W, not the fastest", FULL_SPEED),
        ("", "note", "unknown", "sudo nvpmodel -q"),
    ],
)
def test_a_jetson_tells_its_release_and_power_mode(root, monkeypatch, said, state, text, remedy):
    monkeypatch.setattr(_machine, "output", lambda *_: said)
    board, mode = _machine.jetson(root(JETSON))
    assert board.text == "NVIDIA Jetson Orin Nano, L4T R36 (release), REVISION: 4.3"
    assert (mode.state, mode.text, mode.remedy) == (state, text, remedy)


@pytest.mark.parametrize(("mode", "number"), [("MODE_10W_2CORE", "8"), ("MODE_20W_6CORE", ""), ("MAXN", "")])
def test_a_board_whose_modes_all_have_a_limit_is_told_of_the_highest(root, monkeypatch, mode, number):
    monkeypatch.setattr(_machine, "output", lambda *_: f"NV Power Mode: {mode}\n1")
    modes = "< POWER_MODEL ID=0 NAME=MODE_15W_2CORE >\n< POWER_MODEL ID=8 NAME=MODE_20W_6CORE >\n"
    _, found = _machine.jetson(root({**JETSON, "etc/nvpmodel.conf": modes}))
    assert found.remedy == (f"for full speed: sudo nvpmodel -m {number} && sudo jetson_clocks" if number else "")


def test_what_is_no_jetson_says_nothing_about_it(root):
    assert _machine.jetson(root({})) == []


def install(monkeypatch, loaded, **versions):
    """Make these distributions the installed ones, and `loaded` what their probe answers."""
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(_libraries, "versions", lambda *names: {name: named[name] for name in names if name in named})
    monkeypatch.setattr(_libraries, "probe", lambda _: loaded)


def test_two_onnx_runtimes_are_a_problem_with_its_command(monkeypatch):
    install(monkeypatch, ["1.20", ["CPUExecutionProvider"]], onnxruntime="1.20", onnxruntime_gpu="1.20")
    problem, loaded = _libraries.onnxruntime()
    assert problem.state == "problem"
    assert problem.remedy == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
    assert loaded.text == "1.20, offers CPU"


def test_an_onnx_runtime_that_does_not_load_is_a_problem(monkeypatch):
    install(monkeypatch, None, onnxruntime="1.20")
    (finding,) = _libraries.onnxruntime()
    assert (finding.state, finding.text) == ("problem", "onnxruntime==1.20 does not load")


def test_a_gpu_left_idle_by_onnx_runtime_is_a_note(monkeypatch):
    install(monkeypatch, ["1.20", ["CPUExecutionProvider"]], onnxruntime="1.20")
    monkeypatch.setattr(_machine, "gpu", lambda: [Finding("gpu", "ok", "a card")])
    assert [finding.state for finding in _libraries.onnxruntime()] == ["ok", "note"]


BUILT = "  Video I/O:\n    FFMPEG:                      YES\n    GStreamer:                   NO\n"


def test_two_opencv_wheels_are_a_problem(monkeypatch):
    install(monkeypatch, ["", "4.10", "/cv2.so", BUILT], opencv_python="4.10", opencv_python_headless="4.10")
    monkeypatch.setattr(_libraries, "_pipelines", lambda *_, **__: [])
    problem, loaded = _libraries.opencv()
    assert problem.remedy.startswith("pip uninstall -y opencv-python opencv-python-headless && ")
    assert loaded.text == "4.10, videos by FFMPEG"


GONE = "PyGObject is not here"


@pytest.mark.parametrize("fault", ["", GONE])
@pytest.mark.parametrize("opencv", ["YES", "NO", "shadows JetPack's", None])
def test_what_plays_gst_sources_is_told_for_each_combination(monkeypatch, fault, opencv):
    built = BUILT.replace("GStreamer:                   NO", f"GStreamer: {'YES' if opencv == 'YES' else 'NO'}")
    answers = {_libraries.CV_PROBE: ["", "4.10", "/cv2.so", built] if opencv else None}
    answers[_libraries.GST_PROBE] = [fault, "" if fault else "GStreamer 1.22.0"]
    install(monkeypatch, None, opencv_python="4.10")
    monkeypatch.setattr(_libraries, "probe", answers.get)
    monkeypatch.setattr(_libraries, "jetson_release", lambda _: "R36" if opencv == "shadows JetPack's" else "")
    (told,) = found(_libraries.opencv(), "gstreamer")
    assert (told.state, told.text) == {
        ("", opencv): ("ok", "gst: sources play through PyGObject, GStreamer 1.22.0"),
        (GONE, "YES"): (
            "note",
            f"gst: sources play through OpenCV, as BGR and without their own time stamps: {GONE}",
        ),
        (GONE, "NO"): ("note", f"gst: sources do not work: {GONE}, and OpenCV has no GStreamer"),
        (GONE, None): ("note", f"gst: sources do not work: {GONE}, and OpenCV has no GStreamer"),
        (GONE, "shadows JetPack's"): (
            "problem",
            f"gst: sources do not work: /cv2.so shadows JetPack's OpenCV, which has GStreamer, and {GONE}",
        ),
    }[fault, opencv]
    assert (told.remedy == "") == (told.state == "ok")


def test_no_opencv_is_a_problem(monkeypatch):
    install(monkeypatch, None)
    problem, note = _libraries.opencv()
    assert problem.text.startswith("not installed")
    assert "PyGObject crashes when it is loaded" in note.text


def test_an_opencv_that_does_not_load_says_why_and_what_helps(monkeypatch):
    install(monkeypatch, ["numpy.core.multiarray failed to import", "", "", ""])
    monkeypatch.setattr(_libraries, "_pipelines", lambda *_, **__: [])
    (problem,) = _libraries.opencv()
    assert (problem.state, problem.text) == ("problem", "does not load: numpy.core.multiarray failed to import")
    assert problem.remedy.startswith('pip install "numpy<2"')


def test_libraries_older_than_edgeinfer_asks_for_are_notes(monkeypatch):
    asked = [
        "numpy>=1.24",
        "opencv-python-headless>=4.10.0.84; extra == 'cpu'",
        "cuda-bindings>=13.0; extra == 'gpu'",
        "cuda-bindings<14,>=12.9.1; extra == 'jetson'",
        "grpcio>=1.67.1; extra == 'serve'",
        "starlette>=0.46; extra == 'serve'",
        "tensorrt-rtx-cu13==1.7.1.116; extra == 'rtx'",
    ]
    here = {"numpy": "1.24.0", "opencv-python-headless": "4.9.0.80", "cuda-bindings": "12.9.1", "starlette": "0.46.0"}
    monkeypatch.setattr(_bounds.metadata, "requires", lambda _: asked)
    monkeypatch.setattr(_bounds, "versions", lambda *names: {name: here[name] for name in names if name in here})
    (old,) = _bounds.older()
    assert (old.state, old.remedy) == ("note", 'pip install "opencv-python-headless>=4.10.0.84"')
    assert old.text.startswith("opencv-python-headless 4.9.0.80 is older than 4.10.0.84")


def test_what_pyproject_asks_for_is_what_doctor_measures_by(monkeypatch):
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(f"{one}; extra == '{extra}'" for extra in extras for one in extras[extra])]
    monkeypatch.setattr(_bounds.metadata, "requires", lambda _: asked)
    monkeypatch.setattr(_bounds, "versions", lambda *names: dict.fromkeys(names, "0.0.1"))
    lower = {one.partition(">")[0] for one in asked if ">=" in one}
    assert {finding.text.partition(" ")[0] for finding in _bounds.older()} == lower


def test_libraries_of_extras_may_be_absent(monkeypatch):
    install(monkeypatch, [], tensorrt_cu12="10.9")
    findings = _libraries.optional()
    assert found(findings, "tensorrt") == [Finding("tensorrt", "ok", "tensorrt-cu12 10.9")]
    assert {finding.state for finding in findings} == {"ok", "note"}


def test_on_a_jetson_libraries_of_nvidias_come_as_jetpack_has_them(monkeypatch):
    install(monkeypatch, [])
    monkeypatch.setattr(_libraries, "jetson_release", lambda _: "R36 (release), REVISION: 4.3")
    remedies = {finding.topic: finding.remedy for finding in _libraries.optional()}
    assert remedies["tensorrt"].startswith("where wanted: sudo apt install python3-libnvinfer")
    assert remedies["cuda-bindings"] == 'where wanted: pip install "edgeinfer[jetson]"'
    assert remedies["openvino"] == 'where wanted: pip install "edgeinfer[openvino]"'


def test_a_library_that_is_installed_and_does_not_load_is_a_problem_with_its_reason(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text('raise ImportError("libnvonnxparser.so.11: no such file")')
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, None, tensorrt="11.4")
    monkeypatch.setattr(_libraries, "probe", probe)
    (finding,) = found(_libraries.optional(), "tensorrt")
    assert (finding.state, "libnvonnxparser.so.11" in finding.text) == ("problem", True)
    assert "install it again" in finding.remedy


def test_cuda_bindings_without_the_compiler_of_kernels_are_a_problem(monkeypatch, tmp_path):
    bindings = tmp_path / "cuda" / "bindings"
    bindings.mkdir(parents=True)
    (bindings / "__init__.py").touch()
    (bindings / "nvrtc.py").write_text('raise RuntimeError("no libnvrtc.so.13")')
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, None, cuda_bindings="13.0.3")
    monkeypatch.setattr(_libraries, "probe", probe)
    (finding,) = found(_libraries.optional(), "cuda-bindings")
    assert (finding.state, finding.text) == ("problem", "cuda-bindings 13.0.3: NVRTC is not here: no libnvrtc.so.13")
    assert "nvidia-cuda-nvrtc" in finding.remedy


@pytest.mark.parametrize(
    ("told", "text", "remedy"),
    [
        (
            ["13.5", "12.6"],
            "13.5 compiles the kernels, which a driver for CUDA 12.6 may refuse",
            "nvidia-cuda-nvrtc-cu12",
        ),
        (["12.9", "11.4"], "12.9 compiles the kernels, which a driver for CUDA 11.4 may refuse", "update the driver"),
        (["12.9", "12.6"], "", ""),
        (["12.9", "13.0"], "", ""),
        (None, "", ""),
    ],
)
def test_a_driver_older_than_the_compiler_of_kernels_is_told_with_the_way_out(monkeypatch, told, text, remedy):
    monkeypatch.setattr(_libraries.machine, "has_gpu", lambda: True)
    monkeypatch.setattr(_libraries, "probe", lambda _: told)
    findings = _libraries.compiler()
    assert [finding.text for finding in findings] == [text] * bool(text)
    assert all(finding.remedy.endswith(remedy) for finding in findings)


def test_a_library_that_ends_the_process_that_loads_it_is_a_problem(monkeypatch):
    install(monkeypatch, None, openvino="2026.0")
    (finding,) = found(_libraries.optional(), "openvino")
    assert (finding.state, finding.text) == ("problem", "openvino 2026.0 crashes when it is loaded")


def test_a_probe_survives_a_crash():
    assert probe("import os; os.abort()") is None
    assert probe("print([1])") == [1]


def test_a_program_that_is_missing_fails_or_hangs_says_nothing():
    assert output("no-such-program") == ""
    assert output("false") == ""
    assert output("sleep", "5", timeout=0.05) == ""
