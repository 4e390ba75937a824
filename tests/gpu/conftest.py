"""These tests need a GPU, and are skipped as a folder without one; make test also runs them on a stand-in driver."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from edgeinfer.devices import _driver
from edgeinfer.errors import BackendUnavailable
from gpu import hostengine, models, standin


def _why_not():
    """Empty where there is a GPU. The one reason to skip is that there is no driver, or it has no device."""
    try:
        _driver.Context().close()
    except BackendUnavailable as missing:
        return str(missing)
    return ""


def pytest_collection_modifyitems(items):
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _why_not() if ours else ""
    for item in ours if reason else ():
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _context_held():
    """A real driver starts a context in a good part of a second: once, not for every test."""
    if standin.controls() or _why_not():
        yield
        return
    context = _driver.Context()
    yield
    context.close()


@pytest.fixture
def driver():
    """What only the stand-in can do."""
    found = standin.controls()
    if found is None:
        pytest.skip("only the stand-in driver can do this")
    return found


@pytest.fixture(autouse=True)
def _nothing_left():
    """With the stand-in: nothing that a test made outlives it."""
    found = standin.controls()
    before = found.live() if found else {}
    yield
    if found:
        found.lose(0)
        found.be_integrated(False)
        found.be_several(1)
        assert found.live() == before


@pytest.fixture
def make():
    """A function of a spec (and a function for its engine): a lane, closed in the end."""
    with ExitStack() as stack:
        yield lambda spec, function=None: stack.enter_context(models.lane(spec, function or hostengine.zeros(spec)))


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """The pictogram detector as a bundle: (its spec, a function for a `HostEngine`)."""
    return models.pictograms(tmp_path_factory.mktemp("detector"))
