"""Small labelled data sets on disk, in every layout."""

import json

import cv2
import numpy as np


def picture(path, height=48, width=64, color=(0, 0, 255)):
    """A picture file of one colour; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), color, np.uint8))
    return path


def coco(file, images, annotations, categories):
    """A COCO .json: images {id: name}, annotations [(image id, category id, bbox)], categories {id: name}."""
    content = {
        "images": [{"id": key, "file_name": name} for key, name in images.items()],
        "annotations": [
            {"id": place, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0}
            for place, (image, category, box) in enumerate(annotations, 1)
        ],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
    }
    return write_json(file, content)


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file
