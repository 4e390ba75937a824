"""The kernels a model needs, loaded onto the GPU and launched."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.devices import compiler
from edgeinfer.devices._driver import call

if TYPE_CHECKING:
    from edgeinfer.devices.launch import Launch


class Kernels:
    """Functions of kernels/*.cu, compiled for `arch` ("sm_87") when their file is first asked for."""

    def __init__(self, arch: str) -> None:
        self._arch = arch
        self._modules: dict[str, Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}

    def load(self, source: str) -> None:
        """Bring a source file's kernels onto the GPU now: what is loaded late cannot be captured in a graph."""
        if source not in self._modules:
            code = compiler.cubin(compiler.KERNELS / f"{source}.cu", self._arch)
            self._modules[source] = call("cuModuleLoadData", code)

    def launch(self, one: Launch, stream: Any) -> None:
        """Put a kernel on the stream; its argument is copied before this returns."""
        parameters = np.array([one.argument.ctypes.data], np.uint64)
        function = self._function(one.source, one.kernel)
        call("cuLaunchKernel", function, *one.grid, *one.block, 0, stream, parameters.ctypes.data, 0)

    def _function(self, source: str, kernel: str) -> Any:
        if (source, kernel) not in self._functions:
            self.load(source)
            found = call("cuModuleGetFunction", self._modules[source], kernel.encode())
            self._functions[source, kernel] = found
        return self._functions[source, kernel]

    def close(self) -> None:
        modules, self._modules, self._functions = self._modules, {}, {}
        with ExitStack() as each:
            for module in modules.values():
                each.callback(call, "cuModuleUnload", module)
