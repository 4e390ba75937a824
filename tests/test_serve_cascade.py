"""`edgeinfer serve --classify`: a detector and a classifier behind one name."""

import json
import shutil
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from helpers import bundles
from helpers.patience import until
from helpers.service import service

PAINTS = {"red": "scarlet", "green": "lime", "blue": "navy"}


def relabel(bundle, labels):
    """Write a new version of the bundle whose classes have other names."""
    record = json.loads((bundle / "model.json").read_text())
    record["labels"] = list(labels)
    (bundle / "new.json").write_text(json.dumps(record))
    (bundle / "new.json").replace(bundle / "model.json")


def write(folder):
    """The detector, the classifier of its boxes, and another classifier that is served on its own."""
    bundles.detect_bundle(folder / "models" / "finder")
    bundles.classify_bundle(folder / "models" / "namer")
    relabel(bundles.classify_bundle(folder / "painter"), PAINTS.values())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def served(folder):
    with service(folder / "models", "--classify", folder / "painter") as running:
        yield running


def predicted(running, color="blue", name="finder"):
    status, _, body = running.request(f"/v1/models/{name}/predict", bundles.png(color))
    assert status == 200, body
    return json.loads(body)


def test_predict_says_what_run_says_with_a_classifier(served, folder, tmp_path):
    (tmp_path / "blue.png").write_bytes(bundles.png("blue"))
    words = [folder / "models" / "finder", tmp_path / "blue.png", "--classify", folder / "painter", "--json", "-"]
    line = [sys.executable, "-m", "edgeinfer", "run", *map(str, words)]
    run = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    ours = predicted(served)
    assert ours["detections"] == run["detections"]
    (found,) = ours["detections"]
    assert (found["label"], found["classes"][0]["label"]) == ("blue", "navy")
    assert set(ours["timings_ms"]) == {"preprocess", "infer", "postprocess", "classify"}
    assert ours.keys() - run.keys() == {"model", "model_version"}


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_the_protocol_gives_the_best_class_of_each_box(served, way):
    module, address = (http_client, served.address) if way == "http" else (grpc_client, served.grpc)
    with module.InferenceServerClient(address) as client:
        about = client.get_model_metadata("finder.image", **({"as_json": True} if way == "grpc" else {}))
        names = [(one["name"], one["datatype"]) for one in about["outputs"]]
        assert names[-3:] == [("top_scores", "FP32"), ("top_classes", "INT32"), ("top_labels", "BYTES")]
        item = module.InferInput("image", [1], "BYTES")
        item.set_data_from_numpy(np.array([bundles.png("green")], np.object_))
        answer = client.infer("finder.image", [item])
        assert answer.as_numpy("labels").tolist() == [b"green"]
        assert answer.as_numpy("top_labels").tolist() == [b"lime"]
        assert answer.as_numpy("top_classes").tolist() == [1]
        assert 0.99 < answer.as_numpy("top_scores")[0] <= 1
        raw = client.get_model_metadata("finder", **({"as_json": True} if way == "grpc" else {}))
        assert [one["name"] for one in raw["outputs"]] == ["output0"]


def test_a_classifier_that_is_served_itself_is_left_as_it_is(served):
    assert predicted(served, name="namer")["classes"][0]["label"] == "blue"
    outputs = json.loads(served.request("/v2/models/namer.image")[2])["outputs"]
    assert [one["name"] for one in outputs] == ["scores", "classes", "labels"]


def test_what_runs_and_what_it_takes_are_told(served):
    rows = {row["name"]: row for row in json.loads(served.request("/v1/models")[2])["models"]}
    assert rows["finder"]["runs_on"] == "ort model.fp32.onnx, then ort model.fp32.onnx"
    assert rows["namer"]["runs_on"] == "ort model.fp32.onnx"
    status, headers, drawn = served.request("/v1/models/finder/predict?annotate=1", bundles.png("red"))
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert np.ptp(cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)) > 100


def test_what_a_link_to_the_classifier_leads_to_may_be_exchanged(tmp_path):
    write(tmp_path)
    relabel(bundles.classify_bundle(tmp_path / "jeweller"), ["ruby", "jade", "azure"])
    (tmp_path / "current").symlink_to("painter")
    with service(tmp_path / "models" / "finder", "--classify", tmp_path / "current") as running:
        assert predicted(running)["detections"][0]["classes"][0]["label"] == "navy"
        (tmp_path / "next").symlink_to("jeweller")
        (tmp_path / "next").replace(tmp_path / "current")
        running.send("SIGHUP")
        until(lambda: predicted(running)["detections"][0]["classes"][0]["label"] == "azure")


def test_either_half_is_swapped_without_a_failed_request(tmp_path):
    write(tmp_path)
    with service(tmp_path / "models", "--classify", tmp_path / "painter") as running:
        over, found, failed = threading.Event(), [], []

        def ask():
            while not over.is_set():
                status, _, body = running.request("/v1/models/finder/predict", bundles.png("red"))
                record = json.loads(body)
                if status != 200:
                    failed.append(body)
                    continue
                (one,) = record["detections"]
                found.append((record["model_version"], one["label"], one["classes"][0]["label"]))

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        try:
            until(lambda: found)
            relabel(tmp_path / "painter", ["ruby", "jade", "azure"])
            running.send("SIGHUP")
            until(lambda: (2, "red", "ruby") in found)
            relabel(tmp_path / "models" / "finder", ["apple", "leaf", "sea"])
            running.send("SIGHUP")
            until(lambda: (3, "apple", "ruby") in found)
            (tmp_path / "painter" / "golden" / "0.png").write_bytes(bundles.png("blue"))
            relabel(tmp_path / "painter", ["one", "two", "three"])
            running.send("SIGHUP")
            until(lambda: "version 3 stays" in running.log())
        finally:
            over.set()
            for asker in askers:
                asker.join()
        assert failed == []
        assert set(found) == {(1, "red", "scarlet"), (2, "red", "ruby"), (3, "apple", "ruby")}
        assert predicted(running, "red")["model_version"] == 3
        # the other classifier has nothing to do with it
        assert predicted(running, name="namer")["model_version"] == 1


@pytest.mark.parametrize(
    ("served", "classifier", "code", "told"),
    [
        ("models/namer", "painter", 2, "none of these models finds any"),
        ("models/finder", "models/finder", 1, "has task detect, a cascade needs classify"),
        ("models/finder", "nowhere", 1, "nowhere"),
    ],
)
def test_halves_that_do_not_go_together_are_refused(folder, unserved, served, classifier, code, told):
    ended, _, said = unserved(folder / served, "--classify", folder / classifier)
    assert (ended, said.count("error: ")) == (code, 1)
    assert told in said


def test_a_bad_classifier_leaves_the_models_that_do_not_need_it(folder, tmp_path):
    shutil.copytree(folder / "painter", tmp_path / "painter")
    (tmp_path / "painter" / "model.json").write_text("{")
    with service(folder / "models", "--classify", tmp_path / "painter") as running:
        assert running.request("/v2/models/finder/ready")[0] == 503
        assert predicted(running, name="namer")["classes"][0]["label"] == "blue"
        rows = {row["name"]: row for row in json.loads(running.request("/v1/models")[2])["models"]}
        assert "painter" in rows["finder"]["reason"]
