"""The libraries a backend may need: which are installed, whether they load, whether two are in each other's way."""

from __future__ import annotations

from edgeinfer import machine
from edgeinfer.cli import _machine, _remedies
from edgeinfer.cli._findings import NOTE, OK, PROBLEM, Finding, probe
from edgeinfer.devices.compiler import FOR_CUDA_12
from edgeinfer.machine import ROOT, jetson_release, versions
from edgeinfer.pictures import WITH_OPENCV
from edgeinfer.sources import gstreamer

ORT = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn")
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
ORT_PROBE = "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"
CV_PROBE = """
import json
try:
    import cv2
except ModuleNotFoundError:
    raise
except ImportError as error:
    print(json.dumps([str(error), "", "", ""]))
else:
    print(json.dumps(["", cv2.__version__, cv2.__file__, cv2.getBuildInformation()]))
"""
GST_PROBE = """
import json
from edgeinfer.sources import gstreamer
fault = gstreamer.fault()
print(json.dumps([fault, "" if fault else gstreamer.release()]))
"""
LOADS_PROBE = """
import json
from edgeinfer import backends
from edgeinfer.devices import compiler
from edgeinfer.errors import BackendUnavailable
try:
    {load}
except BackendUnavailable as error:
    print(json.dumps([str(error), error.hint]))
else:
    print("[]")
"""
COMPILER_PROBE = """
import json
from edgeinfer import machine
from edgeinfer.devices import compiler
_, major, minor = compiler.library().nvrtcVersion()
print(json.dumps([f"{major}.{minor}", machine.gpu().cuda]))
"""
# topic, the distributions that give it, what pip is to install, what loads it
OPTIONAL = (
    ("tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"), '"edgeinfer[tensorrt]"', 'backends.load("trt")'),
    (
        "tensorrt-rtx",
        ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
        '"edgeinfer[rtx]"',
        'backends.load("rtx")',
    ),
    ("cuda-bindings", ("cuda-bindings",), '"edgeinfer[gpu]"', "compiler.library()"),
    ("openvino", ("openvino",), '"edgeinfer[openvino]"', 'backends.load("ov")'),
    ("onnx", ("onnx",), '"edgeinfer[export]"', ""),
    ("loadgen", ("mlcommons-loadgen",), '"edgeinfer[profile]"', ""),
)
# of these, what comes otherwise on a Jetson
ON_JETSON = {
    "tensorrt": "sudo apt install python3-libnvinfer, and a venv made with --system-site-packages",
    "cuda-bindings": 'pip install "edgeinfer[jetson]"',
}


def onnxruntime() -> list[Finding]:
    """ONNX Runtime: at most one distribution, it loads, and it offers the GPU where there is one."""
    installed = versions(*ORT)
    findings = []
    if len(installed) > 1:
        wanted = "onnxruntime-gpu" if "onnxruntime-gpu" in installed and _has_gpu() else "onnxruntime"
        remedy = f"pip uninstall -y {' '.join(installed)} && pip install {wanted}"
        text = f"{' and '.join(installed)} are both installed and overwrite each other's files"
        findings.append(Finding("onnxruntime", PROBLEM, text, remedy))
    loaded = probe(ORT_PROBE)
    if loaded:
        return findings + _providers(*loaded)
    if installed:
        names = " ".join(f"{name}=={version}" for name, version in installed.items())
        remedy = f"pip install --force-reinstall {names}"
        return [*findings, Finding("onnxruntime", PROBLEM, f"{names} does not load", remedy)]
    return [Finding("onnxruntime", NOTE, "not installed", 'pip install "edgeinfer[cpu]"')]


def _providers(version: str, providers: list[str]) -> list[Finding]:
    offered = [name.replace("ExecutionProvider", "") for name in providers]
    findings = [Finding("onnxruntime", OK, f"{version}, offers {', '.join(offered)}")]
    if _has_gpu() and "CUDAExecutionProvider" not in providers:
        remedy = 'pip uninstall -y onnxruntime && pip install "edgeinfer[gpu]"'
        findings.append(Finding("onnxruntime", NOTE, "this build has no CUDA, the GPU stays idle in it", remedy))
    return findings


def _has_gpu() -> bool:
    return any(finding.state == OK for finding in _machine.gpu())


def opencv() -> list[Finding]:
    """OpenCV: one wheel at most, it loads, and what video it can read; and what plays pipelines, it or PyGObject."""
    installed = versions(*OPENCV)
    findings = []
    if len(installed) > 1:
        remedy = f"pip uninstall -y {' '.join(installed)} && pip install opencv-python-headless"
        text = f"{' and '.join(installed)} are installed together and overwrite each other's files"
        findings.append(Finding("opencv", PROBLEM, text, remedy))
    loaded = probe(CV_PROBE)
    if not loaded:
        text = "crashes when it is loaded" if installed else "not installed: no pictures, no videos"
        return [*findings, Finding("opencv", PROBLEM, text, WITH_OPENCV), *_pipelines([], "", shadowed=False)]
    fault, version, file, built = loaded
    if fault:
        broken = Finding("opencv", PROBLEM, f"does not load: {fault}", _remedies.of_library(fault, WITH_OPENCV))
        return [*findings, broken, *_pipelines([], "", shadowed=False)]
    reads = [name for name in ("FFMPEG", "GStreamer") if _built_with(built, name)]
    findings.append(Finding("opencv", OK, f"{version}, videos by {' and '.join(reads) or 'its own decoders'}"))
    return findings + _pipelines(reads, file, shadowed=bool(jetson_release(ROOT) and installed))


def _built_with(information: str, name: str) -> bool:
    lines = [line.split() for line in information.splitlines()]
    return any(line[:2] == [f"{name}:", "YES"] for line in lines)


def _pipelines(reads: list[str], file: str, *, shadowed: bool) -> list[Finding]:
    """What plays `gst:` sources: PyGObject if it can, else an OpenCV with GStreamer."""
    fault, release = probe(GST_PROBE) or ("PyGObject crashes when it is loaded", "")
    if not fault:
        return [Finding("gstreamer", OK, f"gst: sources play through PyGObject, {release}")]
    if "GStreamer" in reads:
        text = f"gst: sources play through OpenCV, as BGR and without their own time stamps: {fault}"
        return [Finding("gstreamer", NOTE, text, gstreamer.HINT)]
    if shadowed:
        text = f"gst: sources do not work: {file} shadows JetPack's OpenCV, which has GStreamer, and {fault}"
        return [Finding("gstreamer", PROBLEM, text, f"pip uninstall -y {' '.join(OPENCV)}")]
    text = f"gst: sources do not work: {fault}, and OpenCV has no GStreamer"
    return [Finding("gstreamer", NOTE, text, f"where wanted: {gstreamer.HINT}")]


def optional() -> list[Finding]:
    """What is installed of the libraries of the extras, and loads; absence is fine."""
    findings, otherwise = [], ON_JETSON if jetson_release(ROOT) else {}
    for topic, names, wanted, load in OPTIONAL:
        installed = ", ".join(f"{name} {version}" for name, version in versions(*names).items())
        fault = probe(LOADS_PROBE.format(load=load)) if installed and load else []
        if not installed:
            command = otherwise.get(topic, f"pip install {wanted}")
            findings.append(Finding(topic, NOTE, "not installed", f"where wanted: {command}"))
        elif fault is None:
            remedy = f"install it again: pip install --force-reinstall {wanted}"
            findings.append(Finding(topic, PROBLEM, f"{installed} crashes when it is loaded", remedy))
        elif fault:
            findings.append(Finding(topic, PROBLEM, f"{installed}: {fault[0]}", fault[1]))
        else:
            findings.append(Finding(topic, OK, installed))
    return findings


def compiler() -> list[Finding]:
    """Whether the driver is of the CUDA that kernels are compiled by, or of a later one."""
    release, cuda = (machine.has_gpu() and probe(COMPILER_PROBE)) or ("0", "0")
    if int(release.partition(".")[0]) <= int(cuda.partition(".")[0]):
        return []
    text = f"{release} compiles the kernels, which a driver for CUDA {cuda} may refuse"
    remedy = f"update the driver, or take the NVRTC of CUDA 12: {FOR_CUDA_12}"
    return [Finding("nvrtc", NOTE, text, remedy if cuda.startswith("12.") else "update the driver")]
