"""Accuracy: what each kind of arithmetic finds, beside what the float32 reference finds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeinfer import accuracy
from edgeinfer.errors import UsageError
from edgeinfer.tuning.entrants import Entrant
from edgeinfer.tuning.outcome import OVER_BUDGET, Row

if TYPE_CHECKING:
    from edgeinfer.accuracy import Comparison
    from edgeinfer.bundle import Bundle
    from edgeinfer.datasets import Dataset
    from edgeinfer.plans import Choice
    from edgeinfer.results import Result


@dataclass
class Budget:
    """What may be lost against `reference` on the pictures of `dataset`: points with labels, percent without."""

    bundle: Bundle
    dataset: Dataset
    points: float
    reference: Choice
    device: str = "auto"

    def __post_init__(self) -> None:
        self._truth = self._answers(self.reference)
        _check_proof(accuracy.compare(self.dataset, self._truth, self._truth), self.dataset)

    @property
    def readable(self) -> Dataset:
        """The data set without the pictures that cannot be read."""
        return self.dataset.where(found is not None for found in self._truth)

    def held(self, kind: Choice) -> Row:
        """A row with its accuracy, that has left already if it failed or lost too much."""
        row = Row(kind)
        with row.attempt():
            found = self._truth if kind == self.reference else self._answers(kind)
            row.accuracy = accuracy.compare(self.dataset, self._truth, found)
            fault = over_budget(row.accuracy, self.points)
            if fault:
                row.leave(OVER_BUDGET, fault)
        return row

    def _answers(self, choice: Choice) -> list[Result | None]:
        pictures = [sample.path for sample in self.dataset.samples]
        with closing(Entrant(self.bundle, choice, "answers", pictures, self.device, thorough=True)) as entrant:
            entrant.wait_ready()
            return entrant.answers()


def _check_proof(compared: Comparison, dataset: Dataset) -> None:
    if not compared.compared:
        raise UsageError(
            f"the float32 reference finds nothing in {compared.images} pictures of {dataset.path}: "
            "they prove no accuracy",
            hint="give pictures with something in them: --images FOLDER",
        )


def over_budget(compared: Comparison, budget: float) -> str:
    """How much more than the budget is lost, in words; empty if it is kept."""
    if compared.lost <= budget:
        return ""
    if compared.difference is None:
        return f"{compared.lost:.1f} % of the results differ"
    return f"loses {compared.lost:.2f} points"
