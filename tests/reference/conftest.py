"""Fixtures only: the reference libraries made importable offline, and the table of measured differences."""

import json
import os
import warnings
from pathlib import Path

import pytest

from reference.parity import Compare


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.reference)
            # the references' own imports warn; what they compute is what counts here
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """The module `reference.originals`, its libraries importable: no network, settings in a temporary folder."""
    os.environ |= {
        "YOLO_CONFIG_DIR": str(tmp_path_factory.mktemp("ultralytics")),
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from reference import originals

        yield originals


@pytest.fixture(scope="session")
def measured():
    """Rows of measured differences; written to the file PARITY_TABLE names (the committed one: parity.json)."""
    rows = []
    yield rows
    if os.environ.get("PARITY_TABLE"):
        lines = ",\n".join(f" {json.dumps(row)}" for row in sorted(rows, key=lambda row: row["model"]))
        Path(os.environ["PARITY_TABLE"]).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


@pytest.fixture
def compare(originals, measured):
    return Compare(originals, measured)
