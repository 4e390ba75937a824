"""What a checkpoint says its classes are called: in every form that training programs write, and in safetensors."""

import json

import numpy as np
import pytest

from edgeinfer_export import checkpoint
from helpers.hostile import safetensors_entry as entry
from helpers.pickling import Tensor, archive, safetensors

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def read(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    return checkpoint.read(path)


@pytest.mark.parametrize("told", ['["bus", "car"]', '{"1": "car", "0": "bus"}', '{"car": 1, "bus": 0}'])
def test_class_names_in_the_metadata_of_safetensors_are_json(tmp_path, told):
    found = read(tmp_path, safetensors({"__metadata__": {"names": told}, "fc.weight": entry()}, bytes(8)))
    assert found.labels == ("bus", "car")


def test_as_many_classes_as_any_data_set_has_are_read(tmp_path):
    told = json.dumps({place: f"thing {place}" for place in range(21_843)})
    found = read(tmp_path, safetensors({"__metadata__": {"names": told}, "fc.weight": entry()}, bytes(8)))
    assert len(found.labels) == 21_843


def test_a_place_of_more_digits_than_python_reads_is_no_place(tmp_path):
    told = json.dumps({"9" * 5000: "bus"})
    found = read(tmp_path, safetensors({"__metadata__": {"names": told}, "fc.weight": entry()}, bytes(8)))
    assert found.labels == ()


@pytest.mark.parametrize("told", [["bus", "car"], {0: "bus", 1: "car"}, {"car": 1, "bus": 0}])
@pytest.mark.parametrize("key", ["names", "classes", "class_names", "class_to_idx"])
def test_class_names_are_found_under_what_training_programs_call_them(tmp_path, key, told):
    found = read(tmp_path, archive({"model": {"fc.weight": Tensor(WEIGHT)}, key: told}))
    assert found.labels == ("bus", "car")


def test_classes_may_be_called_by_numbers(tmp_path):
    told = {"class_to_idx": {"3": 0, "7": 1}}
    assert read(tmp_path, archive({"model": {"fc.weight": Tensor(WEIGHT)}, **told})).labels == ("3", "7")


@pytest.mark.parametrize(
    ("told", "labels"),
    [({0: 1, 1: 0}, ("1", "0")), ([7, "A"], ("7", "A")), ([0.5, 2], ("0.5", "2")), ([10**30, 1], ())],
)
def test_names_that_yaml_made_numbers_of_are_names(tmp_path, told, labels):
    assert read(tmp_path, archive({"model": {"fc.weight": Tensor(WEIGHT)}, "names": told})).labels == labels
