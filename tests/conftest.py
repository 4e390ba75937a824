"""Fixtures only; what tests share stands in tests/helpers/."""

import pytest

from helpers import browser as browsers
from helpers import bundles


@pytest.fixture
def detector(tmp_path):
    """A bundle that finds one box named after the picture's colour."""
    return bundles.detect_bundle(tmp_path / "detector")


@pytest.fixture
def classifier(tmp_path):
    """A bundle that names the picture's colour."""
    return bundles.classify_bundle(tmp_path / "classifier")


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window; the test is skipped where there is none."""
    return browsers.find(tmp_path)
