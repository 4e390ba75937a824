"""The stand-in driver: how it is built, how a process is made to use it, and what tests ask of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE.parent / "kernels"
SOURCES = HERE.parent.parent / "edgeinfer" / "devices" / "kernels"
FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",  # unroll
    "-ffp-contract=off",  # as compiler.py's --fmad=false
    "-U_FORTIFY_SOURCE",  # takes a coroutine's longjmp for an overwritten stack
    "-Wl,-soname,libcuda.so.1",
)


def build(folder: Path) -> Path:
    """Compile libcuda.so.1 into `folder`; FileNotFoundError if there is no g++."""
    paths = ["-include", KERNELS / "cuda_on_cpu.h", "-I", SOURCES, "-I", KERNELS, HERE / "standin.cpp"]
    command = ["g++", *FLAGS, *map(str, paths), "-o", str(folder / "libcuda.so.1"), "-ldl", "-pthread"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Of a process whose NVIDIA driver is the one in `folder`."""
    paths = [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


class Controls:
    """What a test can do to the stand-in that it cannot do to a driver; None where a real driver is loaded."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.standin_counts.restype = ctypes.c_char_p
        self.library.standin_foreign.restype = ctypes.c_void_p
        self.library.standin_foreign.argtypes = [ctypes.c_size_t]
        self.library.standin_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]

    def live(self) -> dict[str, int]:
        """What is allocated, created or current now, by kind; nothing of a kind is left out."""
        return {kind: number for kind, number in self._counts(0).items() if number}

    def calls(self) -> dict[str, int]:
        """How often each function was called since the process began."""
        return self._counts(1)

    def _counts(self, which: int) -> dict[str, int]:
        lines = self.library.standin_counts(which).decode().splitlines()
        return {name: int(number) for name, number in (line.split("=") for line in lines)}

    def fail(self, name: str, after: int = 0, status: int = 304) -> None:
        """Let one call of `name` fail, once `after` more have passed."""
        self.library.standin_fail(name.encode(), after, status)

    def lose(self, status: int) -> None:
        """Every call from now on gives `status`; 0 heals."""
        self.library.standin_lose(status)

    def forget(self) -> None:
        """Take what is alive, and was left on purpose, for nothing."""
        self.library.standin_forget()

    def be_integrated(self, yes: bool) -> None:
        """A GPU that shares the host's memory, or one that does not."""
        self.library.standin_be_integrated(int(yes))

    def be_several(self, count: int) -> None:
        """So many GPUs, up to 4, those after the first of another kind."""
        self.library.standin_be_several(count)

    def foreign(self, nbytes: int) -> int:
        """Memory of a context that is not the primary one; never freed."""
        return int(self.library.standin_foreign(nbytes))


def controls() -> Controls | None:
    try:
        return Controls()
    except (OSError, AttributeError):
        return None
