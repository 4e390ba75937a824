"""The pictures to calibrate with and to judge by: how many, held out, and those that cannot be read."""

import json
import shutil
from hashlib import sha256

import cv2
import numpy as np
import pytest

from edgeinfer import datasets, pictures
from edgeinfer.bundle import Bundle
from edgeinfer_export import heldout
from helpers.precisions import AS_IT_IS, LOOSE, run


def refused(capsys, tmp_path, *words):
    assert run(tmp_path / "b", *words) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    assert not (tmp_path / "b").exists()
    assert list(tmp_path.glob(".b.*")) == []
    return " ".join(said)


def test_int8_without_pictures_is_refused(tmp_path, capsys):
    assert "--calibrate DIR with 100 or more" in refused(capsys, tmp_path, "--precision", "int8")


def test_few_pictures_are_refused_unless_they_are_asked_for(tmp_path, capsys, few):
    said = refused(capsys, tmp_path, "--precision", "int8", "--calibrate", few)
    assert "holds 10 pictures that can be read, expected 100 or more" in said
    assert "--few-calibration-images" in said


@pytest.mark.parametrize(("count", "held"), [(20, 4), (2, 1)])
def test_one_picture_in_five_is_held_out_whose_hash_comes_first_under_whatever_name(tmp_path, count, held):
    for place in range(count + 1):  # the last is the first once more
        (tmp_path / f"{place:02}.png").write_bytes(bytes([place % count]))
    found = heldout.split(datasets.unlabelled(tmp_path, sorted(tmp_path.iterdir()), ()))
    ranked = sorted((bytes([place]) for place in range(count)), key=lambda content: sha256(content).digest())
    rest, out = ({one.path.read_bytes() for one in part.samples} for part in (found.calibration, found.heldout))
    assert (out, rest) == (set(ranked[:held]), set(ranked[held:]))
    assert len(found.calibration) + len(found.heldout) == count + 1


def test_no_more_pictures_calibrate_or_judge_than_tell_something_new(tmp_path, detector, monkeypatch):
    monkeypatch.setattr(heldout, "MOST", 4)
    monkeypatch.setattr(heldout, "ENOUGH", 20)
    folder, spec = tmp_path / "many", Bundle.open(detector).spec
    folder.mkdir()
    for place in range(30):
        cv2.imwrite(str(folder / f"{place:02}.png"), np.full((9, 9, 3), place, np.uint8))
    for judging in ("", str(folder)):
        with heldout.pictures(heldout.Sources(str(folder), judging, few=True), spec) as found:
            assert (len(found.calibration), len(found.heldout)) == (4, 4)


def test_an_empty_folder_a_missing_one_and_one_picture_are_refused(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ("--precision", "int8", "--few-calibration-images", "--calibrate")
    assert "has no pictures" in refused(capsys, tmp_path, *words, empty)
    assert "does not exist" in refused(capsys, tmp_path, *words, tmp_path / "nowhere")
    cv2.imwrite(str(empty / "a.png"), np.zeros((9, 9, 3), np.uint8))
    assert "holds 1 pictures that can be read, expected 2" in refused(capsys, tmp_path, *words, empty)
    for name in "bcd":
        shutil.copy(empty / "a.png", empty / f"{name}.png")
    assert "one picture many times" in refused(capsys, tmp_path, *words, empty)


@pytest.fixture
def spoilt(tmp_path):
    """A folder of so many pictures, two of them none; no two are alike."""

    def make(count):
        folder = tmp_path / "spoilt"
        folder.mkdir()
        (folder / "000.jpg").write_bytes(b"GIF89a not a picture")
        (folder / "001.png").write_bytes(b"")
        for place in range(2, count):
            cv2.imwrite(str(folder / f"{place:03}.png"), np.full((9, 9, 3), place, np.uint8))
        return folder

    return make


def test_pictures_that_cannot_be_read_are_named_and_left_out_of_the_calibration(tmp_path, capsys, spoilt, tiny):
    folder = spoilt(12)
    words = ("--precision", "int8", "--few-calibration-images", "--calibrate", folder, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", *words, source=tiny) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[:2] for line in said] == [
        ["warning:", f"{folder}/{name}"] for name in ("000.jpg", "001.png")
    ]
    assert Bundle.open(tmp_path / "b").spec.artifacts[0].made["images"] == "8"  # of ten, two judge


def test_the_plan_counts_the_pictures_that_can_be_read_and_names_the_others(capsys, tmp_path, spoilt, tiny):
    words = (
        "--precision",
        "int8",
        "--few-calibration-images",
        "--calibrate",
        spoilt(12),
        *AS_IT_IS,
        "--plan",
        "--json",
    )
    assert run(tmp_path / "b", *words, source=tiny) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["calibration"]["images"], plan["judged"]["images"]) == (8, 2)
    assert [note.split("/")[-1].split(" ")[0] for note in plan["notes"]] == ["000.jpg", "001.png"]


def test_without_int8_the_pictures_to_calibrate_with_all_judge(tmp_path, capsys, few, tiny):
    words = ("--precision", "fp32,fp16", "--calibrate", few, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", *words, "--plan", "--json", source=tiny) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["calibration"], plan["judged"]["images"]) == (None, 10)
    assert run(tmp_path / "b", *words, source=tiny) == 0
    half = Bundle.open(tmp_path / "b").spec.artifacts[1]
    assert (half.precision, half.accuracy["images"]) == ("fp16", 10)


def test_held_out_pictures_that_cannot_be_read_are_left_out_too(tmp_path, capsys, few, spoilt, tiny):
    words = ("--calibrate", few, "--few-calibration-images", "--held-out", spoilt(5), *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    assert capsys.readouterr().err.count("warning: ") == 2
    assert Bundle.open(tmp_path / "b").spec.artifacts[0].accuracy["images"] == 3


def hollow(path):
    """A picture that shows only when it is decoded that it cannot be: its kind of compression is none."""
    data = bytearray(cv2.imencode(".bmp", np.zeros((9, 9, 3), np.uint8))[1])
    data[30] = 9
    path.write_bytes(data)


def test_pictures_that_cannot_be_decoded_are_left_out_where_they_are_used(tmp_path, capfd, few, others, tiny):
    folders = []
    for given in (few, others):
        folders.append(tmp_path / given.name)
        shutil.copytree(given, folders[-1])
        hollow(folders[-1] / "hollow.bmp")
    words = ("--calibrate", folders[0], "--few-calibration-images", "--held-out", folders[1], *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.split(" ")[1] for line in warnings] == [f"{folder}/hollow.bmp" for folder in folders]
    artifact = Bundle.open(tmp_path / "b").spec.artifacts[0]
    assert (artifact.made["images"], artifact.accuracy["images"]) == ("10", 20)


@pytest.mark.parametrize("empty", ["--calibrate", "--held-out"])
def test_where_no_picture_can_be_decoded_nothing_is_written(tmp_path, capfd, few, tiny, empty):
    (tmp_path / "hollow").mkdir()
    for place in range(2):
        hollow(tmp_path / "hollow" / f"{place}.bmp")
    words = {"--calibrate": few, "--held-out": few, empty: tmp_path / "hollow"}
    words = (*(word for pair in words.items() for word in pair), "--few-calibration-images", *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 1
    assert "error: none of the 2 pictures can be read: " in capfd.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_picture_is_decoded_once_to_calibrate(tmp_path, few, others, tiny, monkeypatch):
    def seen(data, name, *more):
        decoded.append(name)
        return decode(data, name, *more)

    decode, decoded = pictures.decode, []
    monkeypatch.setattr(pictures, "decode", seen)
    words = ("--calibrate", few, "--few-calibration-images", "--held-out", others, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", "--precision", "int8", *words, source=tiny) == 0
    calibrated = [name for name in decoded if name.startswith(f"{few}/")]
    assert len(calibrated) == len(set(calibrated)) == 10


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (101, "holds 99 pictures that can be read, expected 100 or more"),
        (2, "none of the 2 pictures can be read: "),
    ],
)
def test_too_few_pictures_that_can_be_read_are_one_error(tmp_path, capsys, spoilt, count, told):
    assert run(tmp_path / "b", "--precision", "int8", "--calibrate", spoilt(count)) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert [line.split(":")[0] for line in said] == ["error", "hint"]
    assert told in said[0]
    assert not (tmp_path / "b").exists()


def test_a_hundred_pictures_of_any_size_calibrate(tmp_path, tiny):
    folder = tmp_path / "odd"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for place, size in enumerate([(1, 1), (3, 2000), (900, 4), (333, 77), (320, 320), *[(9, 16)] * 95]):
        cv2.imwrite(str(folder / f"{place}.png"), chance.integers(0, 256, (*size, 3), np.uint8))
    words = ("--precision", "int8", "--calibrate", folder, "--held-out", folder, *AS_IT_IS, *LOOSE)
    assert run(tmp_path / "b", *words, source=tiny) == 0
    assert Bundle.open(tmp_path / "b").spec.artifacts[0].made["images"] == "100"
