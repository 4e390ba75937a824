"""NVIDIA's surfaces without NVIDIA's library: how the stand-in is built, and what tests ask of it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
CUDA, ARRAY, SYSTEM = 2, 4, 6  # NVBUF_MEM_*


def build(folder: Path) -> Path:
    """Compile libnvbufsurface.so into `folder`; FileNotFoundError if there is no g++."""
    file = folder / "libnvbufsurface.so"
    command = ["g++", *FLAGS, str(HERE / "standin_nvbufsurface.cpp"), "-o", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return file


class Surfaces:
    """Surfaces, each known by its address; freed when this is closed."""

    def __init__(self, file: str | Path) -> None:
        self.library = ctypes.CDLL(str(file))
        self.library.standin_offsets.restype = ctypes.c_char_p
        self.library.standin_surface.restype = ctypes.c_void_p
        self.library.standin_surface.argtypes = [ctypes.c_uint] * 3 + [ctypes.c_int, ctypes.c_bool, ctypes.c_void_p]
        self.library.standin_fill.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self.library.standin_unmake.argtypes = [ctypes.c_void_p]
        self.library.standin_images.restype = ctypes.c_long
        for function in (self.library.NvBufSurfaceMapEglImage, self.library.NvBufSurfaceUnMapEglImage):
            function.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._held: list[int] = []

    def offsets(self, *, newer: bool) -> dict[str, int]:
        """Where a C compiler puts each field, in L4T R36 or in DeepStream 9.1."""
        lines = self.library.standin_offsets(int(newer)).decode().splitlines()
        return {name: int(number) for name, number in (line.split("=") for line in lines)}

    def make(
        self, width: int, height: int, pitch: int, *, kind: int = ARRAY, arrays: bool = False, data: int = 0
    ) -> int:
        """A surface, of `kind` CUDA in the memory at `data`, else in memory of its own."""
        made: int = self.library.standin_surface(width, height, pitch, kind, arrays, data)
        self._held.append(made)
        return made

    def fill(self, surface: int, pixels: bytes) -> None:
        """Put NV12 pixels into a surface with memory of its own."""
        self.library.standin_fill(surface, pixels)

    def images(self) -> tuple[int, int]:
        """How many EGLImages have been made, and unmade."""
        return self.library.standin_images(0), self.library.standin_images(1)

    def refuse(self, times: int) -> None:
        """Make no EGLImage the next so many times."""
        self.library.standin_refuse(times)

    def close(self) -> None:
        for surface in self._held:
            self.library.standin_unmake(surface)
