"""How far two models agree on what they find."""

import numpy as np
import pytest

from edgeinfer.comparing import agreement
from edgeinfer.comparing.models import Model
from edgeinfer.plans import Choice
from edgeinfer.results import Classification, Detections
from edgeinfer.spec import Size

LABELS = ("cat", "dog", "cow")


def boxes(*rows, labels=LABELS):
    """Detections of (label, score, left) with boxes ten pixels wide."""
    return Detections(
        np.array([[left, 0, left + 10, 10] for _, _, left in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([labels.index(label) for label, _, _ in rows], np.int32),
        labels,
        Size(100, 100),
    )


def said(*found, task="detect", name="a"):
    class Folder:
        spec = type("Spec", (), {"task": task})

    return Model(Folder, Choice("ort", name), name, list(found))


def agreed(one, other, task="detect"):
    (found,) = agreement.agreements([said(one, task=task), said(other, task=task, name="b")])
    return found


def test_objects_are_the_same_if_label_and_place_are():
    found = agreed(boxes(("cat", 0.9, 0), ("dog", 0.8, 50)), boxes(("cat", 0.7, 1), ("cow", 0.8, 50)))

    assert (found.same, found.compared) == (1, 3)
    assert found.to_dict()["score_difference"]["max"] == pytest.approx(0.2)


def test_labels_in_another_order_are_still_the_same_labels():
    turned = ("dog", "cow", "cat")
    found = agreed(boxes(("cat", 0.9, 0)), boxes(("cat", 0.9, 0), labels=turned))

    assert (found.same, found.compared) == (1, 1)


def test_two_that_find_nothing_have_no_share():
    found = agreed(boxes(), boxes())

    assert found.share is None
    assert "neither finds anything" in found.words()


def test_classifiers_agree_by_their_first_class_and_by_the_classes_in_common():
    one = Classification(np.array([0, 1], np.int32), np.array([0.6, 0.4], np.float32), LABELS, Size(1, 1))
    other = Classification(np.array([1, 2], np.int32), np.array([0.7, 0.3], np.float32), LABELS, Size(1, 1))
    found = agreed(one, other, "classify")

    assert (found.same, found.compared, found.overlap) == (0, 1, [0.5])
    assert found.score_differences == [pytest.approx(0.3)]


def test_models_of_different_tasks_are_not_held_against_each_other():
    assert agreement.agreements([said(boxes()), said(None, task="classify")]) == []
