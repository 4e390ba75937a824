"""Pictures of what the packaged detector knows, and a model that means nothing."""

import shutil

import pytest

from helpers import networks
from helpers.scenery import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """40 labelled pictures of what the packaged detector knows, in YOLO's layout."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), 40)


def some(scenes, folder, first, last):
    """A folder of those from the first to before the last, with their labels."""
    for file in sorted(scenes.iterdir())[2 * first : 2 * last]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="session")
def few(scenes, tmp_path_factory):
    return some(scenes, tmp_path_factory.mktemp("few"), 0, 10)


@pytest.fixture(scope="session")
def others(scenes, tmp_path_factory):
    return some(scenes, tmp_path_factory.mktemp("others"), 10, 30)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A classifier of a few layers that means nothing."""
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    networks.residual(path)
    return path
