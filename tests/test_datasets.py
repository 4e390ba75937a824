"""Data sets are read as they are meant in each layout, and a malformed file is one clear error."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer import datasets
from edgeinfer.datasets import coco, yolo
from edgeinfer.errors import DatasetError
from edgeinfer.spec import Size
from helpers import datasets as on_disk
from helpers import specs

DETECTOR, CLASSIFIER = specs.detector(), specs.classifier()  # of cat, dog, cow
BOXES = [(0, 18, (1, 2, 30, 20)), (0, 21, (5.5, 6.25, 7, 8)), (7, 17, (0, 0, 64, 48))]
CATEGORIES = {17: "cat", 18: "dog", 21: "cow", 90: "toothbrush"}


def refusal(path, spec=DETECTOR):
    with pytest.raises(DatasetError) as caught:
        datasets.read(path, spec)
    return str(caught.value)


def coco_set(tmp_path, notes="annotations.json", pictures="", **changes):
    """Pictures 0 and 7 in `pictures`, and a .json called `notes`."""
    facts = {"images": {0: "a.jpg", 7: "b.jpg"}, "annotations": BOXES, "categories": CATEGORIES, **changes}
    for name in ("a.jpg", "b.jpg"):
        on_disk.picture(tmp_path / pictures / name)
    return on_disk.coco(tmp_path / notes, **facts)


def yolo_set(tmp_path, text="1 0.5 0.5 0.5 0.25\n"):
    """images/a.jpg with this label file, images/b.jpg with none."""
    for name in ("a", "b"):
        on_disk.picture(tmp_path / f"images/{name}.jpg")
    on_disk.write(tmp_path / "labels/a.txt", text)
    return tmp_path


def test_pictures_of_linked_folders_are_measured_too_and_those_of_hidden_ones_are_not(tmp_path):
    for name in ("set/a", "set/.hidden/b", "else/where/c"):
        on_disk.picture(tmp_path / f"{name}.jpg")
    folder = tmp_path / "set"
    for name, target in (("more", tmp_path / "else"), ("loop", folder), ("up", tmp_path), ("more/back", folder)):
        (folder / name).symlink_to(target, target_is_directory=True)
    found = datasets.pictures_under(folder)
    once = [folder / name for name in ("a.jpg", "more/where/c.jpg", "up/else/where/c.jpg")]
    assert found == once


@pytest.mark.parametrize(
    ("notes", "pictures", "given"),
    [
        ("annotations.json", "", "."),
        ("annotations.json", "images", "."),
        ("annotations.json", "images", "annotations.json"),
        ("annotations/instances_val2017.json", "val2017", "annotations/instances_val2017.json"),
        ("annotations/instances_val2017.json", "images/val2017", "."),
        ("annotations/x.json", "images", "."),
    ],
)
def test_coco_pictures_are_found_where_people_put_them(tmp_path, notes, pictures, given):
    coco_set(tmp_path, notes, pictures)
    found = datasets.read(tmp_path / given, DETECTOR)
    assert [sample.path.resolve() for sample in found.samples] == [
        tmp_path / pictures / name for name in ("a.jpg", "b.jpg")
    ]
    assert (found.task, found.layout, found.matched) == ("detect", "COCO", "by name")


def test_coco_categories_go_to_labels_by_name_and_boxes_are_corners(tmp_path):
    first, second = datasets.read(coco_set(tmp_path), DETECTOR).samples
    assert first.class_ids.tolist() == [1, 2]
    assert first.boxes.tolist() == [[1, 2, 31, 22], [5.5, 6.25, 12.5, 14.25]]
    assert second.class_ids.tolist() == [0]
    assert not second.crowd.any()


def test_a_coco_picture_without_boxes_is_a_sample_with_nothing_to_find(tmp_path):
    _, second = datasets.read(coco_set(tmp_path, annotations=BOXES[:2]), DETECTOR).samples
    assert second.boxes.shape == (0, 4)
    assert len(second.class_ids) == len(second.crowd) == 0


def test_coco_names_that_the_model_does_not_know_are_listed(tmp_path):
    boxes = [*BOXES, (0, 90, (0, 0, 1, 1))]
    assert "'toothbrush' is not among the model's 3 labels ('cat', 'dog', 'cow')" in refusal(
        coco_set(tmp_path, annotations=boxes)
    )


def test_a_name_that_two_labels_have_is_told_from_one_that_none_has():
    with pytest.raises(DatasetError) as told:
        datasets.Names(("crane", "cat", "crane")).index(("cat", "crane"), "here:")
    assert str(told.value) == "here: 'crane' may be more than one of the model's labels"


def test_names_match_but_for_case_space_and_dashes():
    names = datasets.Names(("Traffic Light", "stop sign", "crane", "crane"))
    assert [names.find(name) for name in ("traffic_light", "stop-sign", "Stop  Sign")] == [0, 1, 1]
    assert names.find("crane") is None
    assert datasets.Names(("Cat", "cat")).find("cat") == 1


DAMAGES = {
    "images[1].id": lambda c: c["images"][1].update(id=True),
    "images[0].file_name": lambda c: c["images"][0].update(file_name="../a.jpg"),
    "images[1].file_name": lambda c: c["images"][1].update(file_name="/etc/passwd"),
    "images[1].id 0": lambda c: c["images"][1].update(id=0),
    "images is empty": lambda c: c.update(images=[]),
    "no list 'categories'": lambda c: c.pop("categories"),
    "no list 'annotations'": lambda c: c.update(annotations={}),
    "categories[3].name": lambda c: c["categories"][3].pop("name"),
    "categories[2].id 17": lambda c: c["categories"][2].update(id=17),
    "annotations[2].image_id 8": lambda c: c["annotations"][2].update(image_id=8),
    "annotations[0].category_id 5": lambda c: c["annotations"][0].update(category_id=5),
    "annotations[0].bbox is [1, 2, 3]": lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
    "annotations[1].bbox is None": lambda c: c["annotations"][1].update(bbox=None),
    "annotations[1].bbox is '1234'": lambda c: c["annotations"][1].update(bbox="1234"),
    "annotations[1].bbox is [0, 0, -1, 1]": lambda c: c["annotations"][1].update(bbox=[0, 0, -1, 1]),
    "annotations[1].bbox is [0, 0, nan, 1]": lambda c: c["annotations"][1].update(bbox=[0, 0, float("nan"), 1]),
    "annotations[1].bbox is [0, 0, 1000": lambda c: c["annotations"][1].update(bbox=[0, 0, 10**400, 1]),
    "annotations[2].iscrowd": lambda c: c["annotations"][2].update(iscrowd="no"),
    "annotations[1].image_id": lambda c: c["annotations"].__setitem__(1, 5),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_damaged_coco_file_is_named_with_its_field(tmp_path, fault):
    file = coco_set(tmp_path)
    content = json.loads(file.read_text())
    DAMAGES[fault](content)
    on_disk.write_json(file, content)
    told = refusal(file)
    assert fault in told
    assert str(file) in told


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b"null"])
def test_a_file_that_is_no_coco_json_is_one_error(tmp_path, data):
    file = tmp_path / "a.json"
    file.write_bytes(data)
    assert str(file) in refusal(file)


def test_missing_coco_pictures_are_told_where_they_were_looked_for(tmp_path):
    file = on_disk.coco(tmp_path / "val.json", {0: "a.jpg"}, [], {})
    assert "'a.jpg' is neither beside it nor in images/ or val/" in refusal(file)


def test_several_json_files_are_not_guessed_among(tmp_path):
    coco_set(tmp_path, "annotations/val.json")
    coco_set(tmp_path, "annotations/train.json")
    assert "2 .json files: annotations/train.json, annotations/val.json" in refusal(tmp_path)


sides = st.floats(0, 4000, allow_nan=False, width=32)


@given(
    st.lists(st.tuples(st.sampled_from([0, 7]), st.sampled_from([17, 18, 21]), st.tuples(sides, sides, sides, sides)))
)
def test_every_coco_box_comes_out_once_at_its_place(tmp_path_factory, boxes):
    found = datasets.read(coco_set(tmp_path_factory.mktemp("coco"), annotations=boxes), DETECTOR)
    labels = {17: 0, 18: 1, 21: 2}
    for key, sample in zip((0, 7), found.samples, strict=True):
        mine = [(labels[category], box) for image, category, box in boxes if image == key]
        assert sample.class_ids.tolist() == [label for label, _ in mine]
        corners = [[x, y, x + width, y + height] for _, (x, y, width, height) in mine]
        np.testing.assert_allclose(sample.boxes.reshape(-1), np.ravel(corners))


def test_yolo_trees_give_fractions_and_an_unlabelled_picture_is_background(tmp_path):
    found = datasets.read(yolo_set(tmp_path), DETECTOR)
    first, second = found.samples
    assert (found.layout, found.matched) == ("YOLO", "by number")
    assert first.class_ids.tolist() == [1]
    assert first.boxes_in(Size(100, 200)).tolist() == [[50, 37.5, 150, 62.5]]
    assert second.boxes.shape == (0, 4)


def test_yolo_label_files_may_lie_beside_their_pictures(tmp_path):
    on_disk.picture(tmp_path / "a.jpg")
    on_disk.write(tmp_path / "a.txt", "2 0.5 0.5 1 1")
    (sample,) = datasets.read(tmp_path, DETECTOR).samples
    assert sample.class_ids.tolist() == [2]


def test_a_folder_of_pictures_inside_a_yolo_tree_finds_its_labels(tmp_path):
    on_disk.picture(tmp_path / "images/val/a.jpg")
    on_disk.write(tmp_path / "labels/val/a.txt", "2 0.5 0.5 1 1")
    (sample,) = datasets.read(tmp_path / "images/val", DETECTOR).samples
    assert sample.class_ids.tolist() == [2]


def test_the_box_of_an_outline_is_the_smallest_round_it(tmp_path):
    (first, _) = datasets.read(yolo_set(tmp_path, "0 0.1 0.2 0.6 0.3 0.4 0.9"), DETECTOR).samples
    assert first.boxes.tolist() == [[0.1, 0.2, 0.6, 0.9]]


def test_a_class_number_may_be_written_as_numpy_writes_it(tmp_path):
    (first, _) = datasets.read(yolo_set(tmp_path, "1.0 0.5 0.5 1 1\n2.000000e+00 5e-01 0.5 1 1"), DETECTOR).samples
    assert first.class_ids.tolist() == [1, 2]


def test_a_box_may_leave_the_picture_by_a_hundredth_as_in_training(tmp_path):
    (first, _) = datasets.read(yolo_set(tmp_path, "1 1.01 -0.01 0.5 0.5"), DETECTOR).samples
    assert first.boxes.tolist() == [[0.76, -0.26, 1.26, 0.24]]
    assert "not fractions" in refusal(yolo_set(tmp_path, "1 1.02 0.5 0.5 0.5"))


def test_a_yolo_line_that_stands_twice_is_one_object_but_two_outlines_of_one_box_are_two(tmp_path):
    lines = "1 0.5 0.5 0.5 0.5\n1 .5 .5 .5 .50\n0 0.5 0.5 0.5 0.5\n0 0 0 1 0 1 1\n0 0 0 1 1 0 1\n0 0 0 1 1 0 1\n"
    (first, _) = datasets.read(yolo_set(tmp_path, lines), DETECTOR).samples
    assert first.class_ids.tolist() == [1, 0, 0, 0]


def test_class_numbers_are_named_by_classes_txt(tmp_path):
    on_disk.write(yolo_set(tmp_path) / "classes.txt", "cow\ncat\n")
    (first, _) = datasets.read(tmp_path, DETECTOR).samples
    assert first.class_ids.tolist() == [0]


YAMLS = {
    "list": ("names: [cow, cat]\nval: images\n", "by name"),
    "lines": ("train: nowhere  # not used\nval: images\nnc: 2\nnames:\n  - cow\n  - cat\n", "by name"),
    "numbered": ("path: .\nval: images\nnames:\n  0: cow\n  1: cat\ndownload: |\n  rm -rf x\n", "by name"),
    "sibling": ("val: ../images\nnames: [cow, cat]\n", "by name"),
    "listing": ("val: [val.txt]\nnames: [cow, cat]\n", "by name"),
    "test": ("test: images\nnames: [cow, cat]\n", "by name"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_data_yaml_names_classes_and_pictures(tmp_path, name):
    text, matched = YAMLS[name]
    on_disk.write(yolo_set(tmp_path) / "data.yaml", text)
    on_disk.write(tmp_path / "val.txt", "./images/a.jpg\nimages/b.jpg\n\n")
    for place in (tmp_path, tmp_path / "data.yaml"):
        found = datasets.read(place, DETECTOR)
        assert found.matched == matched
        assert [sample.class_ids.tolist() for sample in found.samples] == [[0], []]


BAD_YAMLS = {
    "names: [cow, cat": "is not YAML",
    "!!python/object/apply:os.system ['true']": "is not YAML",
    "- 1": "is not a list of keys",
    "val: images": "names is not a list",
    "val: images\nnames: [cow, [cat]]": "names is not a list",
    "val: images\nnames: {a: cow}": "names has keys",
    "val: images\nnames: {999999999: cow}": "names has keys",
    "names: [cow]": "names no pictures under val",
    "names: [cow, cat]\nval: nowhere": "val 'nowhere' is not there",
    "names: [cow, cat]\nval: 5": "val is 5",
    "names: [cow, cat]\nval: images\npath: 5": "under path 5",
    "names: [cow, bee]\nval: images": "'bee' is not among the model's 3 labels",
    "names: [cow]\nval: images": "class 1 is used, and there are 1",
}


@pytest.mark.parametrize("text", BAD_YAMLS)
def test_a_damaged_data_yaml_is_named_with_its_field(tmp_path, text):
    on_disk.write(yolo_set(tmp_path) / "data.yaml", text)
    told = refusal(tmp_path)
    assert BAD_YAMLS[text] in told
    assert str(tmp_path / "data.yaml") in told


@pytest.mark.parametrize(
    "line",
    [
        "1 0.5 0.5 0.5",
        "x 0.5 0.5 0.5 0.5",
        "-1 0 0 1 1",
        "1 0.5 nan 0.5 0.5",
        "1 320 240 64 48",
        "1.5 0 0 1 1",
        "1 0 0 1 1 0.9",
    ],
)
def test_a_damaged_yolo_line_is_named_by_file_and_number(tmp_path, line):
    yolo_set(tmp_path, f"0 0.5 0.5 1 1\n\n{line}\n")
    told = refusal(tmp_path)
    assert f"{tmp_path}/labels/a.txt:3: '{line}'" in told


def test_a_yolo_class_that_the_model_does_not_have_is_an_error(tmp_path):
    assert "class 3 is used, and there are 3: 0 to 2" in refusal(yolo_set(tmp_path, "3 0.5 0.5 1 1"))


def test_a_label_file_that_is_no_text_is_an_error(tmp_path):
    yolo_set(tmp_path).joinpath("labels/a.txt").write_bytes(b"\xff\xfe\x00")
    assert "labels/a.txt is not a text file" in refusal(tmp_path)


shares = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(st.integers(0, 2), shares, shares, shares, shares), unique=True))
def test_every_yolo_box_comes_out_once_at_its_place(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("yolo")
    text = "".join(f"{' '.join(map(repr, row))}\n" for row in rows)
    on_disk.write(folder / "a.txt", text)
    found = yolo._rows(folder / "a.txt")
    assert [number for number, _ in found] == [row[0] for row in rows]
    for (_, box), (_, x, y, width, height) in zip(found, rows, strict=True):
        np.testing.assert_allclose(box, (x - width / 2, y - height / 2, x + width / 2, y + height / 2))


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_as_yolo_labels(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("yolo") / "a.txt"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        rows = yolo._rows(file)
    except DatasetError as error:
        assert str(file) in str(error)
    else:
        assert all(len(box) == 4 for _, box in rows)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "file_name", "image_id", "category_id", "bbox", "name", "iscrowd"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused_as_coco(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("coco")
    entries = content if isinstance(content, list) else [content]
    file = on_disk.write_json(folder / "a.json", dict.fromkeys(coco.KEYS, entries))
    with pytest.raises(DatasetError, match=r"a\.json"):
        coco.read(file, DETECTOR.labels)


def class_folders(tmp_path, *names):
    for place, name in enumerate(names):
        on_disk.picture(tmp_path / name / f"{place}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected", "matched"),
    [
        (("cow", "cat"), [0, 2], "by name"),
        (("Cat", "DOG", "cow"), [0, 1, 2], "by name"),
        (("0", "2"), [0, 2], "by number"),
        (("n02", "n03", "n01"), [0, 1, 2], "by order"),
    ],
)
def test_class_folders_are_matched_by_name_number_or_order(tmp_path, names, expected, matched):
    found = datasets.read(class_folders(tmp_path, *names), CLASSIFIER)
    assert [int(sample.class_ids[0]) for sample in found.samples] == expected
    assert (found.task, found.matched) == ("classify", matched)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("cat", "horse"), "'horse' is not among"),
        (("n01", "n02"), "'n01', 'n02' are not among"),
        (("cat", "dog", "horse"), "'horse' is not among"),
        (("0", "3"), "'3' is not one of 0 to 2"),
    ],
)
def test_an_unknown_class_folder_is_an_error(tmp_path, names, told):
    assert told in refusal(class_folders(tmp_path, *names), CLASSIFIER)


def test_a_class_folder_without_pictures_keeps_its_place_in_the_order(tmp_path):
    class_folders(tmp_path, "n01", "n03")
    (tmp_path / "n02").mkdir()
    found = datasets.read(tmp_path, CLASSIFIER)
    assert [int(sample.class_ids[0]) for sample in found.samples] == [0, 2]


@pytest.mark.parametrize("spec", [DETECTOR, CLASSIFIER], ids=["detector", "classifier"])
def test_a_folder_of_pictures_alone_has_no_labels(tmp_path, spec):
    on_disk.picture(tmp_path / "a.png")
    found = datasets.read(tmp_path, spec)
    assert (found.task, found.layout, len(found)) == ("", "pictures", 1)
    assert found.samples[0].class_ids is None


@pytest.mark.parametrize("spec", [DETECTOR, CLASSIFIER], ids=["detector", "classifier"])
def test_what_is_no_data_set_is_an_error(tmp_path, spec):
    assert "has no pictures" in refusal(tmp_path, spec)
    assert "does not exist" in refusal(tmp_path / "nothing", spec)
    assert str(tmp_path / "a.txt") in refusal(on_disk.write(tmp_path / "a.txt", ""), spec)


def test_a_spread_keeps_every_class_of_sorted_folders(tmp_path):
    for name in ("cat", "dog", "cow"):
        for place in range(10):
            on_disk.picture(tmp_path / name / f"{place}.png")
    found = datasets.read(tmp_path, CLASSIFIER)
    assert {int(sample.class_ids[0]) for sample in found.spread(3).samples} == {0, 1, 2}
    assert len(found.spread(7)) == 7
    assert found.spread(100) is found
