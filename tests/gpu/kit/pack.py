"""Pack what `prove.py` needs where there is nothing but NumPy, cuda-bindings and TensorRT.

    python tests/gpu/kit/pack.py FOLDER

FOLDER gets the runtime, the compiler front end, two trained models as bundles, pictures, and what the CPU makes of
them: the pictogram detector (YOLOv5n, 640 x 640) and a ResNet-50 with a fitted head. Needs the export extra; no GPU.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "export"), str(ROOT / "tests")]

from edgeinfer import load  # noqa: E402
from edgeinfer_export.export import Options, export  # noqa: E402

PICTURES = 12
PRECISIONS = ("fp32", "fp16")


def main(folder: Path) -> None:
    for package in (ROOT / "edgeinfer", ROOT / "export" / "edgeinfer_export"):
        ignored = shutil.ignore_patterns("__pycache__", "assets", "serve", "streams")
        shutil.copytree(package, folder / package.name, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(Path(__file__).with_name("prove.py"), folder)
    from helpers import pictogram_classifier

    models = folder / "models"
    detector = Path(str(resources.files("edgeinfer_export"))) / "assets" / "pictograms.pt"
    photos = sorted((ROOT / "tests" / "data" / "pictograms").glob("*.jpg"))[:PICTURES]
    pack(models / "pictograms", detector, Options(precisions=PRECISIONS), photos)
    classifier = pictogram_classifier.cached(folder / "classifier")
    glyphs = sorted(classifier.held_out.rglob("*.*"))[:: 300 // PICTURES][:PICTURES]
    pack(models / "resnet50", classifier.checkpoint, Options(size=classifier.size, precisions=PRECISIONS), glyphs)
    shutil.rmtree(folder / "classifier")
    print(f"packed {folder}; there, in the kit's Python: {folder}/prove.py")


def pack(target: Path, source: Path, options: Options, pictures: list[Path]) -> None:
    if target.exists():
        shutil.rmtree(target)
    cases(export(source, target, options), [cv2.imread(str(picture)) for picture in pictures])


def cases(bundle: Path, images: list) -> None:
    """Put `cases.npz` and `cases.json` into a bundle: pictures, what the first becomes, and every picture's result."""
    with load(bundle, "ort", "fp32") as model:
        tensors, _ = model.device.preprocess(images[:1])
        (tensor,) = (array.copy() for array in tensors.values())
        raw = {f"raw_{name}": array.copy() for name, array in model.engine.run(tensors).items()}
        results = [record(model(image)) for image in images]
    arrays = {f"image_{at}": image for at, image in enumerate(images)}
    np.savez_compressed(bundle / "cases.npz", tensor=tensor, **raw, **arrays)
    (bundle / "cases.json").write_text(json.dumps(results))


def record(result) -> list[dict]:
    if result.task == "classify":
        pairs = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
        return [{"class_id": label, "score": score} for label, score in pairs]
    rows = zip(result.class_ids.tolist(), result.scores.tolist(), result.boxes.tolist(), strict=True)
    return [{"class_id": label, "score": score, "box": box} for label, score, box in rows]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
