"""`edgeinfer demo` with a stand-in for the exporter and its assets."""

import sys
import types

import cv2
import pytest

from edgeinfer import cli
from edgeinfer.cli import demo
from helpers import bundles


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Two pictures, a video, and a checkpoint that the stand-in exporter turns into the tiny detector."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for place, color in enumerate(("red", "green")):
        cv2.imwrite(str(folder / f"street-{place}.jpg"), bundles.picture(color))
    writer = cv2.VideoWriter(str(folder / "street.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 32))
    for _ in range(2):
        writer.write(bundles.picture("blue"))
    writer.release()
    exported = []

    def export(source, out):
        exported.append(source.name)
        return bundles.detect_bundle(out)

    monkeypatch.setitem(sys.modules, "edgeinfer_export.export", types.SimpleNamespace(export=export))
    monkeypatch.setattr(demo, "_assets", lambda: folder)
    return exported


def test_it_exports_runs_and_keeps_everything(assets, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["demo", "--save", str(out)]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["pictograms", "street-0.jpg", "street-1.jpg", "street.mp4"]
    lines = [line.split()[:3] for line in printed.splitlines()]
    assert ["street-0.jpg", "1", "red"] in lines
    assert ["street.mp4", "1.0", "objects"] in lines
    assert f"edgeinfer info {out}/pictograms" in printed
    assert assets == ["pictograms.pt"]


def test_an_earlier_bundle_can_be_kept(assets, tmp_path):
    for _ in range(2):
        assert cli.main(["demo", "--save", str(tmp_path / "out"), "--keep"]) == 0
    assert assets == ["pictograms.pt"]


def test_without_the_exporter_it_says_what_to_install(assets, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "edgeinfer_export.export", None)
    assert cli.main(["demo", "--save", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == (
        'error: the demo needs edgeinfer_export.export, which is not installed\nhint: pip install "edgeinfer[export]"\n'
    )
