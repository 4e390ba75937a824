"""What of its folders is served: new versions under load, and bundles that are refused while others serve."""

import json
import threading

from edgeinfer.serve.folders import Folders
from helpers import bundles
from helpers.nobody import nobody
from helpers.patience import until
from helpers.service import service


def replace(file, record):
    """Put another record there at once: a service that watches reads no half of it."""
    other = file.with_suffix(".new")
    other.write_text(json.dumps(record))
    other.replace(file)


def test_a_new_version_is_switched_to_without_a_failed_request(tmp_path):
    bundle = bundles.detect_bundle(tmp_path / "finder")
    with service(bundle, "--manage") as running:
        failed, asked, over = [], [], threading.Event()

        def ask():
            while not over.is_set():
                status, _, body = running.request("/v1/models/finder/predict", bundles.png())
                asked.append(json.loads(body).get("model_version"))
                if status != 200:
                    failed.append(body)

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        try:
            until(lambda: 1 in asked)
            for number in range(3):
                bundles.new_version(bundle, f"version {number}")
                running.send("SIGHUP")
                until(lambda number=number: number + 2 in asked)
        finally:
            over.set()
            for asker in askers:
                asker.join()
        assert failed == []
        assert {1, 2, 3, 4} <= set(asked)
        assert running.request("/v1/models/finder/rollback", b"")[0] == 200
        assert json.loads(running.request("/v1/models")[2])["models"][0]["version"] == 3


def test_a_version_that_fails_its_self_test_is_refused_and_the_old_one_stays(tmp_path):
    bundle = bundles.detect_bundle(tmp_path / "finder")
    with service(bundle, "--watch", 0.2) as running:
        changed = json.loads((bundle / "model.json").read_text())
        changed["golden"][0]["expect"][0]["class_id"] = 2
        replace(bundle / "model.json", changed)
        until(lambda: "version 1 stays" in running.log())
        assert "is refused" in running.log()
        assert running.request("/v1/models/finder/predict", bundles.png())[0] == 200


def test_a_corrupt_bundle_among_good_ones_is_told_and_left_out(tmp_path):
    bundles.detect_bundle(tmp_path / "models" / "finder")
    bundles.classify_bundle(tmp_path / "models" / "namer")
    (tmp_path / "models" / "namer" / "model.json").write_text("{")
    with service(tmp_path / "models") as running:
        assert "serving finder on" in running.told
        rows = {row["name"]: row for row in json.loads(running.request("/v1/models")[2])["models"]}
        assert rows["finder"]["state"] == "READY"
        assert "model.json" in rows["namer"]["reason"]
        assert running.request("/v2/models/namer/ready")[0] == 503
        assert running.request("/v2/health/ready")[0] == 200
        assert running.request("/v2/repository/index", b"")[0] == 403


def test_a_bundle_that_may_not_be_looked_into_stops_no_other(classifier, detector):
    detector.chmod(0)
    try:
        with nobody(detector):
            folders = Folders([classifier, detector])
            assert (folders.bundles(), folders.empty) == ([classifier, detector], [])
    finally:
        detector.chmod(0o755)
