"""The packaged detector, exported by us and run by us, finds what is in held-out pictures."""

import pytest
from faster_coco_eval import COCO, COCOeval_faster

from edgeinfer import accuracy, datasets, load
from edgeinfer.bundle import Bundle
from edgeinfer_export.export import export
from helpers.scenery import SOURCE, TRUTH

# measured 0.930; an export or a runtime that loses more than two points of it is wrong
LEAST_MAP50 = 0.91


def reference(found):
    """(mAP50-95, mAP50) of faster-coco-eval, called by hand on the annotations as they are on disk."""
    truth = COCO(str(TRUTH / "annotations.json"))
    rows = []
    for picture, result in zip(truth.loadImgs(truth.getImgIds()), found, strict=True):
        for box, score, class_id in zip(result.boxes.tolist(), result.scores, result.class_ids, strict=True):
            left, top, right, bottom = box
            place = [left, top, right - left, bottom - top]
            row = {"image_id": picture["id"], "category_id": int(class_id), "bbox": place, "score": float(score)}
            rows.append(row)
    judge = COCOeval_faster(truth, truth.loadRes(rows), "bbox", print_function=lambda *_: None)
    judge.run()
    return judge.stats[0], judge.stats[1]


def test_the_packaged_detector_finds_what_it_was_trained_for(tmp_path):
    bundle = Bundle.open(export(SOURCE, tmp_path / "pictograms"))
    pictures = datasets.read(TRUTH, bundle.spec)
    with load(bundle, **accuracy.thresholds(bundle.spec)) as model:
        found = accuracy.predict(model, pictures)
    numbers = accuracy.score(pictures, found).numbers

    print(f"mAP50 {numbers['map50']:.3f} mAP50-95 {numbers['map50_95']:.3f}")
    assert numbers["map50"] >= LEAST_MAP50
    assert (numbers["map50_95"], numbers["map50"]) == pytest.approx(reference(found), abs=1e-9)
