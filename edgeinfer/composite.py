"""A model made of others, called like one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from edgeinfer.pipeline import Pipeline
    from edgeinfer.spec import ModelSpec
    from edgeinfer.tiling import Tiled

Self = TypeVar("Self", bound="Composite")


class Composite:
    """What it shows of itself is its detector's, which the caller's pictures go to."""

    def __init__(self, detector: Pipeline | Tiled) -> None:
        self.detector = detector

    @property
    def spec(self) -> ModelSpec:
        """The detector's: what goes in, and how many at once."""
        return self.detector.spec

    @property
    def contexts(self) -> int:
        """How many calls may run at the same time."""
        return self.detector.contexts

    @property
    def group(self) -> int:
        """How many pictures a call should have at most."""
        return self.detector.group

    @property
    def backend(self) -> str:
        return self.detector.backend

    @property
    def plan(self) -> str:
        return self.detector.plan

    @property
    def artifact(self) -> str:
        return self.detector.artifact

    def close(self) -> None:
        """Close what it is made of."""
        self.detector.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
