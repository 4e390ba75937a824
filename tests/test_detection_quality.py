"""The packaged detector, exported by us and run by us, finds what is in held-out pictures."""

import contextlib
import io
from importlib import resources
from pathlib import Path

import cv2
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from edgeinfer import load
from edgeinfer_export.export import export

DATA = Path(__file__).parent / "data" / "pictograms"
# measured 0.854; an export or a runtime that loses more than two points of it is wrong
LEAST_MAP50 = 0.83


def measure(model):
    """(mAP50-95, mAP50) over every held-out picture."""
    truth = COCO(str(DATA / "annotations.json"))
    rows = []
    for picture in truth.loadImgs(truth.getImgIds()):
        found = model(cv2.imread(str(DATA / picture["file_name"])))
        for box, score, class_id in zip(found.boxes.tolist(), found.scores, found.class_ids, strict=True):
            left, top, right, bottom = box
            place = [left, top, right - left, bottom - top]
            row = {"image_id": picture["id"], "category_id": int(class_id), "bbox": place, "score": float(score)}
            rows.append(row)
    judge = COCOeval_faster(truth, truth.loadRes(rows), "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        judge.run()
    return judge.stats[0], judge.stats[1]


@pytest.mark.filterwarnings("default")
def test_the_packaged_detector_finds_what_it_was_trained_for(tmp_path):
    source = Path(str(resources.files("edgeinfer_export") / "assets" / "pictograms.pt"))
    with load(export(source, tmp_path / "pictograms"), conf=0.001, iou=0.65) as model:
        precise, found = measure(model)

    print(f"mAP50 {found:.3f} mAP50-95 {precise:.3f}")
    assert found >= LEAST_MAP50
