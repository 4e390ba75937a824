"""What a model that was saved whole says of its layers itself; a state dict says nothing: the family's rule holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeinfer.errors import ExportError
from edgeinfer_export.graphs.ops import ACTIVATIONS, Activation, both
from edgeinfer_export.graphs.plan import OTHER_WAY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeinfer_export.graphs.ops import Pair
    from edgeinfer_export.modeltree import Module

MAX_SLOPE = 100.0


@dataclass(frozen=True)
class Declared:
    """Innermost modules by their path, in order; empty for a state dict."""

    modules: Mapping[str, Module] = field(default_factory=dict)

    def activation(self, path: str, otherwise: Activation | None) -> Activation:
        """The activation of that path; `otherwise` where nothing is said. None there: it must be said."""
        module = self.modules.get(path)
        if module is None and otherwise is not None:
            return otherwise
        if module is None:
            raise ExportError(f"nothing says which activation {path} is", hint="save the whole model with torch.save")
        slope = module.settings.get("negative_slope", 0.01)
        if module.kind == "LeakyReLU" and type(slope) is float and 0 <= slope <= MAX_SLOPE:
            return Activation("leakyrelu", slope)
        if module.kind not in ACTIVATIONS:
            known = ", ".join((*ACTIVATIONS, "LeakyReLU"))
            raise ExportError(f"the activation {path} is {module.kind}, which is not one of {known}", hint=OTHER_WAY)
        return ACTIVATIONS[module.kind]

    def linear(self, path: str) -> None:
        """ExportError where there is an activation, and none is built."""
        module = self.modules.get(path)
        if module is not None and module.kind != "Identity":
            raise ExportError(f"the activation {path} is {module.kind}, where none is expected", hint=OTHER_WAY)

    def epsilon(self, path: str, otherwise: float) -> float:
        """What a batch norm adds to the variance."""
        module = self.modules.get(path)
        value = module.settings.get("eps", otherwise) if module else otherwise
        if type(value) is not float or not 0 <= value < 1:
            raise ExportError(f"the batch norm {path} adds {value!r} to the variance", hint=OTHER_WAY)
        return value

    def convolution(self, path: str, stride: Pair, pad: Pair, groups: int) -> None:
        """ExportError where a convolution is another than what is built of it."""
        self.check(path, stride=both(stride), padding=both(pad), groups=groups, dilation=1, padding_mode="zeros")

    def check(self, path: str, **built: int | str | list[int]) -> None:
        """ExportError where the module is another than what is built of it, by the settings given in `built`."""
        module = self.modules.get(path)
        for name, value in built.items():
            said = module.settings.get(name, value) if module else value
            if said not in (value, [value, value]):
                raise ExportError(
                    f"layer {path} has {name} {_shown(said)}, where the architecture its tensors show has "
                    f"{_shown(value)}",
                    hint=OTHER_WAY,
                )

    def stride(self, path: str) -> int:
        """Of a convolution, along both sides; 1 where nothing is said."""
        module = self.modules.get(path)
        said = module.settings.get("stride") if module else None
        return said[0] if isinstance(said, list) and said and type(said[0]) is int and said[0] > 0 else 1


def _shown(setting: Any) -> str:
    return "x".join(map(str, setting)) if isinstance(setting, list) else str(setting)
