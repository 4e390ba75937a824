"""Two models that many tests build, from seeds."""

import pytest

from helpers import seeded


@pytest.fixture(scope="session")
def yolov5():
    return seeded.Golden("yolov5")


@pytest.fixture(scope="session")
def resnet():
    """One whose blocks have two convolutions."""
    return seeded.Golden("resnet-basic")
