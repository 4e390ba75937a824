"""What `edgeinfer run` is tried on."""

import cv2
import pytest

from helpers import bundles


@pytest.fixture
def photos(tmp_path):
    """A folder with a red and a blue picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for color in ("red", "blue"):
        cv2.imwrite(str(folder / f"{color}.png"), bundles.picture(color))
    return folder


@pytest.fixture
def clip(tmp_path):
    """A video of three green frames."""
    return bundles.video(tmp_path / "clip.avi", [bundles.picture("green", 48, 64)] * 3)
