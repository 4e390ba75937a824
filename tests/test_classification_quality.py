"""A ResNet-50 of full depth with a fitted head, exported by us and run by us, tells held-out pictures apart."""

import json

from edgeinfer import accuracy, cli, datasets, load
from edgeinfer.bundle import Bundle
from edgeinfer_export.export import Options, export
from pictograms import glyphs

# measured 0.957; pixels divided by 200 in the place of 255 give 0.903
LEAST_TOP1 = 0.93


def test_a_resnet50_with_a_fitted_head_classifies_held_out_pictures(pictogram_classifier, tmp_path, capsys):
    made = pictogram_classifier
    bundle = Bundle.open(export(made.checkpoint, tmp_path / "resnet50", Options(size=made.size)))
    pictures = datasets.read(made.held_out, bundle.spec)
    with load(bundle, **accuracy.thresholds(bundle.spec)) as model:
        score = accuracy.evaluate(model, pictures)

    print(f"top-1 {score.numbers['top1']:.3f} top-5 {score.numbers['top5']:.3f}")
    assert (bundle.spec.name, bundle.spec.labels) == ("resnet50", glyphs.NAMES)
    assert (score.images, pictures.matched) == (300, "by name")
    assert score.numbers["top1"] >= LEAST_TOP1

    capsys.readouterr()
    words = ["validate", str(bundle.path), str(made.held_out), "--limit-images", "40", "--json", "-"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 40
    assert report["top1"] >= LEAST_TOP1 - 0.1
