"""NVIDIA's own programs round Triton, out of wheels: its server, and the perf_analyzer that measures services."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
import sysconfig
import zipfile
from typing import TYPE_CHECKING

import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from helpers.patience import until

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "nvidia-pytriton==0.7.0"
ANALYZER = "tritonclient==2.50.0"  # the last with the program in it
# Triton's onnxruntime backend is in no wheel: this one hands the same files to ONNX Runtime, by way of the Python
# backend; tensors go by DLPack, since that backend is built for NumPy 1
BACKEND = """
import json, os, sys
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
import numpy, onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        file = json.loads(args["model_config"]).get("default_model_filename") or "model.onnx"
        path = os.path.join(args["model_repository"], args["model_version"], file)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {one.name: numpy.from_dlpack(triton.get_input_tensor_by_name(request, one.name))
                 for one in self.session.get_inputs()}
        names = [one.name for one in self.session.get_outputs()]
        found = zip(names, self.session.run(names, given))
        wanted = request.requested_output_names()
        return triton.InferenceResponse([triton.Tensor.from_dlpack(*one) for one in found if one[0] in wanted])
"""


def missing() -> str:
    """Why the programs cannot run here; empty if they can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "Triton's wheels are for Linux on x86-64"
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return "Triton's Python backend needs a Python with a shared library"
    return ""


class Programs:
    """Both, installed into `folder`."""

    def __init__(self, folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        subprocess.run([*pip, "install", "--no-deps", "--target", folder, SERVER], check=True)
        subprocess.run([*pip, "download", "--no-deps", "-d", folder / "wheels", ANALYZER], check=True)
        (wheel,) = (folder / "wheels").glob("*.whl")
        self._server = folder / "pytriton" / "tritonserver"
        self._analyzer, self._libraries = folder / "perf_analyzer", folder / "libraries"
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/bin/perf_analyzer"))
            self._analyzer.write_bytes(archive.read(name))
        self._analyzer.chmod(0o755)
        self._libraries.mkdir()
        for name in ("libb64.so.0d", "libcudart.so.12"):
            stem, _, version = name.partition(".so")
            (found,) = (folder / "nvidia_pytriton.libs").glob(f"{stem}-*.so{version}*")
            (self._libraries / name).symlink_to(found)
        stub = self._server / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
        for file in stub.iterdir():
            (self._server / "backends" / "python" / file.name).write_bytes(file.read_bytes())
            (self._server / "backends" / "python" / file.name).chmod(0o755)
        (self._server / "backends" / "onnxruntime").mkdir()
        (self._server / "backends" / "onnxruntime" / "model.py").write_text(BACKEND)

    @contextlib.contextmanager
    def serving(self, repository: Path):
        """A client of the server with this model repository, every model of which is ready, and its HTTP address."""
        http, rpc = _free_ports(2)
        line = [self._server / "bin" / "tritonserver", f"--model-repository={repository}"]
        line += [f"--backend-directory={self._server / 'backends'}", "--allow-metrics=false", "--strict-readiness=true"]
        line += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", f"--http-port={http}", f"--grpc-port={rpc}"]
        env = {
            **os.environ,
            "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
            "PYTHONPATH": sysconfig.get_path("purelib"),
        }
        log = repository.parent / "triton.log"
        with log.open("w") as told, subprocess.Popen(line, env=env, stdout=told, stderr=told) as process:
            try:
                with grpc_client.InferenceServerClient(f"127.0.0.1:{rpc}") as client:
                    until(lambda: process.poll() is not None or _ready(client))
                    assert process.poll() is None, log.read_text()
                    yield client, f"127.0.0.1:{http}"
            finally:
                process.terminate()

    def analyze(self, *words: object) -> str:
        """What perf_analyzer prints when it measures as these words say; it must succeed."""
        line = [self._analyzer, *map(str, words), "--measurement-mode", "count_windows", "-r", "3", "-s", "999"]
        line += ["--measurement-request-count", "10"]
        env = {**os.environ, "LD_LIBRARY_PATH": str(self._libraries)}
        done = subprocess.run(line, env=env, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _ready(client) -> bool:
    with contextlib.suppress(InferenceServerException):
        return client.is_server_ready()
    return False
