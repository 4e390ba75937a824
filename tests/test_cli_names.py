"""Names of files that are no text, or that no terminal can show: they stop nothing, and programs get them back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer import cli
from edgeinfer.bundle import Bundle, writing
from edgeinfer.errors import BundleError
from helpers import bundles, datasets

LATIN = os.fsdecode(b"caf\xe9")  # as archives of older systems have it


def place(folder, name):
    """A file or folder of this name; where the disk takes text only there is nothing to test."""
    try:
        (folder / name).touch()
    except (OSError, UnicodeError):
        pytest.skip("this disk takes no such name")
    return folder / name


@pytest.fixture
def photo(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    path = place(folder, f"{LATIN}.png")
    path.write_bytes(bundles.png("red"))
    return path


def command(*args, **environment):
    line = [sys.executable, "-m", "edgeinfer", *map(str, args)]
    return subprocess.run(line, capture_output=True, check=False, env={**os.environ, **environment})


def test_a_name_that_is_not_utf8_stops_no_run_and_comes_back_from_the_records(detector, photo, tmp_path):
    kept, drawn = tmp_path / "kept.jsonl", tmp_path / "drawn"
    done = command("run", detector, photo.parent, "--json", kept, "--save", drawn, PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\udce9.png 32x32: 1 red" in done.stdout
    assert Path(json.loads(kept.read_text("utf-8"))["source"]) == photo
    assert (drawn / photo.name).is_file()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_records_on_stdout_are_utf8_whatever_the_terminal_is(detector, photo, encoding):
    name = "Füße 写真 \N{CAMERA}.png"
    shutil.move(photo, place(photo.parent, name))
    shutil.copy(photo.parent / name, photo)
    done = command("run", detector, photo.parent, "--json", "-", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    found = [json.loads(line)["source"] for line in done.stdout.decode("utf-8").splitlines()]
    assert sorted(found) == sorted([str(photo), str(photo.parent / name)])


def test_lines_for_people_say_what_the_terminal_cannot_show_in_its_own_letters(detector, photo):
    done = command("run", detector, photo, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"caf\\udce9.png 32x32: 1 red" in done.stdout


def test_a_name_does_not_steer_the_terminal(detector, photo, capsys):
    shutil.move(photo, place(photo.parent, "a\x1b[31m\nb.png"))
    assert cli.main(["run", str(detector), str(photo.parent)]) == 0
    assert f"{photo.parent}/a[31m b.png 32x32: 1 red" in capsys.readouterr().out


def test_the_name_of_a_bundle_s_file_does_not_steer_the_terminal(detector, tmp_path, capsys):
    told = json.loads((detector / "model.json").read_text(encoding="utf-8"))
    (artifact,) = told["artifacts"]
    shutil.move(detector / artifact["file"], place(detector, "\x1b[31mred.onnx"))
    artifact["file"] = "\x1b[31mred.onnx"
    (detector / "model.json").write_text(json.dumps(told), encoding="utf-8")
    image, notes = tmp_path / "set/a.png", tmp_path / "set/notes.json"
    datasets.picture(image, color=bundles.BGR["red"])
    datasets.coco(notes, {0: "a.png"}, [(0, 1, (16, 12, 32, 24))], {1: "red"})
    for words in (["verify", detector], ["run", detector, image], ["validate", detector, notes]):
        assert cli.main([*map(str, words)]) == 0
        assert "[31mred.onnx" in (out := capsys.readouterr().out)
        assert "\x1b" not in out


def test_a_video_whose_name_is_not_utf8_is_refused_before_opencv_crashes_on_it(detector, photo):
    video = place(photo.parent, f"{LATIN}.mp4")
    video.write_bytes(b"\0\0\0 ftypisom")
    done = command("run", detector, video)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith(
        b"caf\\udce9.mp4 is not UTF-8, and OpenCV takes no other name for a video"
    )


def test_a_video_is_not_saved_in_a_folder_whose_name_crashes_opencv(detector, photo, tmp_path):
    video = bundles.video(tmp_path / "clip.avi", [bundles.picture("green", 48, 64)])
    done = command("run", detector, video, "--save", photo.parent / LATIN)
    assert done.returncode == 1
    assert b"is not UTF-8" in done.stderr
    assert list((photo.parent / LATIN).iterdir()) == []


def test_a_bundle_in_a_folder_whose_name_is_not_utf8_is_neither_read_nor_written(detector, photo):
    bundle = Path(shutil.move(detector, photo.parent / LATIN))
    with pytest.raises(BundleError, match="is not UTF-8 text") as refused:
        Bundle.open(bundle)
    assert refused.value.hint == "rename it, or run in a locale of UTF-8"
    with pytest.raises(BundleError, match="is not UTF-8 text"), writing(bundle):
        pass
