"""Our graphs against the implementations they stand for: same weights, same pictures, float32 on the CPU."""

import numpy as np

import helpers.rows
from edgeinfer.spec import Batch, Size

# float32 sums in another order: logits of unit variance, boxes in pixels, scores in 0-1
LOGITS, PIXELS, SCORES = 1e-4, 0.01, 1e-4

SCALES = "nsmlx"


def run(built, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(built.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {built.spec.inputs[0].name: images})[0]


def rows(array, layout):
    """(n, boxes, 4 + ...): boxes first, whatever the layout."""
    return array.transpose(0, 2, 1) if layout == "yolov8" else array


class Compare:
    """Builds our graph for a reference model, runs both, records and returns the differences."""

    def __init__(self, originals, measured):
        self.originals = originals
        self.measured = measured

    def detector(self, name, model, side=256, count=1, *, stored=None, **options):
        from edgeinfer_export import graphs

        size = side if isinstance(side, tuple) else (side, side)
        checkpoint = stored or self.originals.stored(model)
        built = graphs.build(checkpoint, size=Size(*size), batch=options.pop("batch", Batch(count, count)), **options)
        images = self.originals.images(size, count)
        ours, theirs = run(built, images), self.originals.output(model, images)
        assert ours.shape == theirs.shape == built.spec.outputs[0].at(count)
        ours, theirs = (rows(array, built.spec.decode.layout) for array in (ours, theirs))
        assert np.ptp(theirs[..., 4:]) > 0.5, "the reference's scores hardly vary: the comparison would say little"
        apart = np.abs(ours - theirs)
        row = {"box_px": float(apart[..., :4].max()), "score": float(apart[..., 4:].max())}
        parameters = sum(value.numel() for value in model.parameters())
        facts = {"parameters": built.spec.provenance.parameters, "gflops": built.spec.provenance.gflops}
        self.measured.append({"model": name, "size": size, **row, **facts, "unfused_parameters": parameters})
        assert row["box_px"] <= PIXELS
        assert row["score"] <= SCORES
        return built

    def end_to_end(self, name, model, side=256, *, stored=None, **options):
        """The head without suppression: what is found is the same, and in the same order but for near scores."""
        from edgeinfer_export import graphs

        model.model[-1].end2end = True
        checkpoint = stored or self.originals.stored(model)
        built = graphs.build(checkpoint, size=Size(side, side), batch=Batch(1, 4), **options)
        images = self.originals.images((side, side), 2)
        ours, theirs = run(built, images), self.originals.output(model, images)
        assert built.spec.decode.layout == "end2end"
        assert np.ptp(theirs[..., 4]) > 0.02, "the reference's scores hardly vary: the comparison would say little"
        helpers.rows.assert_same(ours, theirs, pixels=PIXELS, scores=SCORES)
        return built

    def classifier(self, name, model, side=224, count=2, *, stored=None, **options):
        from edgeinfer_export import graphs

        checkpoint = stored or self.originals.stored(model)
        built = graphs.build(checkpoint, size=Size(side, side), batch=Batch(1, 8), **options)
        images = self.originals.images((side, side), count)
        ours, theirs = run(built, images), self.originals.output(model, images)
        assert ours.shape == theirs.shape
        difference = float(np.abs(ours - theirs).max() / theirs.std())
        # of ResNet one FLOP is a multiply-add, of YOLO two are
        unit = "gflops" if "-cls" in name else "gmacs"
        facts = {"parameters": built.spec.provenance.parameters, unit: built.spec.provenance.gflops}
        self.measured.append({"model": name, "size": (side, side), "logits": difference, **facts})
        assert difference <= LOGITS
        return built
