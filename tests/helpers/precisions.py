"""`edgeinfer export` with precisions, as the tests of the gate call it."""

from edgeinfer.cli import main
from helpers.scenery import SOURCE

SIDE = 96
LOOSE = ("--budget", "50")
QUICK = ("--few-calibration-images", "--calibrate-method", "minmax")
AS_IT_IS = ("--normalize", "unit", "--imgsz", 32)


def run(target, *words, source=SOURCE, size=("--imgsz", SIDE)):
    size = () if "--imgsz" in words else size
    return main(["export", str(source), "-o", str(target), *map(str, (*size, *words))])
