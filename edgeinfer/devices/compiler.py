"""CUDA C++ to a cubin for one GPU architecture, by NVRTC; no GPU, driver or CUDA toolkit is needed.

Compiled once per machine: cubins are kept in `$XDG_CACHE_HOME/edgeinfer/kernels`, named by everything they
depend on. A cache that cannot be read or written costs time, never a result.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from edgeinfer import cache
from edgeinfer.errors import BackendUnavailable, DeviceError

KERNELS = Path(__file__).with_name("kernels")
OPTIONS = (
    "--std=c++17",
    # a product rounded before it is added, as on the CPU: results equal the reference device's to the bit.
    # The kernels wait for memory, not for arithmetic; where a fused multiply-add is meant they call fmaf.
    "--fmad=false",
)

# cuda-bindings 13 load it where that of CUDA 13 is not; a driver of CUDA 12 may refuse what the latter compiles
FOR_CUDA_12 = "pip uninstall -y nvidia-cuda-nvrtc && pip install nvidia-cuda-nvrtc-cu12"
_INSTALL = "pip install cuda-bindings nvidia-cuda-nvrtc, both of one CUDA version (on a Jetson: JetPack's)"
_ARCHITECTURE = f"a GPU that NVRTC no longer knows: {FOR_CUDA_12}"

_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def cubin(source: Path, arch: str, *, strict: bool = False) -> bytes:
    """What the driver loads: the cubin of a .cu file for `arch` ("sm_87"), from the cache if it is there.

    For a GPU newer than NVRTC it is PTX, which the driver compiles to the end. Raises DeviceError.
    `strict` makes a warning an error and passes the cache by; for tests, since a later compiler's new
    warning must not stop a device.
    """
    nvrtc = library()
    sources = {source.name: source.read_text(encoding="utf-8")}
    _add_includes(sources, source.parent, sources[source.name])
    if strict:
        return _compile(nvrtc, sources, arch, strict=True)
    name = f"{_digest(nvrtc, sources, arch)}.cubin"
    data = cache.read("kernels", name)
    if data is None:
        data = _compile(nvrtc, sources, arch, strict=False)
        cache.write("kernels", name, data)
    return data


def library() -> Any:
    """The module cuda.bindings.nvrtc. Raises BackendUnavailable, also where there is no NVRTC for it."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # binds the library
    except (ImportError, RuntimeError) as missing:
        words = str(missing).partition("\n")[0]
        raise BackendUnavailable(f"NVRTC is not here: {words}", hint=_INSTALL) from missing
    return nvrtc


def _add_includes(sources: dict[str, str], folder: Path, text: str) -> None:
    for name in _INCLUDE.findall(text):
        if name not in sources:
            sources[name] = (folder / name).read_text(encoding="utf-8")
            _add_includes(sources, folder, sources[name])


def _checked(nvrtc: Any, answer: tuple[Any, ...], what: str) -> Any:
    status = answer[0]
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(f"NVRTC refused {what}: {status.name}")
    return answer[1] if len(answer) > 1 else None


def _compile(nvrtc: Any, sources: dict[str, str], arch: str, *, strict: bool) -> bytes:
    (name, text), *headers = sources.items()
    target = arch if strict else _target(nvrtc, arch)
    kind = "CUBIN" if target == arch else "PTX"
    names = [header.encode() for header, _ in headers]
    texts = [body.encode() for _, body in headers]
    program = _checked(
        nvrtc, nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), len(headers), texts, names), f"the text of {name}"
    )
    try:
        options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={target}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _log(nvrtc, program)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS or (strict and log):
            hint = _ARCHITECTURE if "--gpu-architecture" in log else "run edgeinfer doctor"
            raise DeviceError(f"{name} does not compile for {arch}: {log or status.name}", hint=hint)
        data = bytes(_checked(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program), f"the size of {name}"))
        _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}")(program, data), f"the code of {name}")
        return data
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _target(nvrtc: Any, arch: str) -> str:
    """`arch`, or where that is newer than NVRTC the latest that it knows, such as "compute_121"."""
    known = _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs(), "to say what it compiles for")
    number = int(arch.partition("_")[2])
    older = [one for one in known if one < number]
    return arch if number in known or not older else f"compute_{max(older)}"


def _log(nvrtc: Any, program: Any) -> str:
    log = bytes(_checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program), "the log's size"))
    _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log), "the log")
    return log.rstrip(b"\0").decode(errors="replace").strip()


def _digest(nvrtc: Any, sources: dict[str, str], arch: str) -> str:
    _, major, minor = nvrtc.nvrtcVersion()
    parts = [arch, f"{major}.{minor}", *OPTIONS]
    for name, text in sources.items():
        parts += [name, text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
