"""Triton model repositories, read by Triton's own protocol buffers; their ensembles, walked with ONNX Runtime."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup, ModelParameter

from edgeinfer import bundle as bundle_module
from edgeinfer import load, modeljson
from edgeinfer.bundle import Bundle, sha256_of
from edgeinfer.cli import main
from edgeinfer.devices.cpu import Device
from edgeinfer.errors import BundleError, ExportError, UsageError
from edgeinfer.spec import Artifact, Batch, Size
from edgeinfer_export import graphs, pbtxt, triton
from edgeinfer_export.export import Options, export, write_bundle
from edgeinfer_export.graphs import Variant
from edgeinfer_export.graphs import frames as in_graph
from helpers import seeded
from helpers.scenery import SOURCE, TRUTH

PICTURES = sorted(TRUTH.glob("*.jpg"))[:8]
SIZE = Size(256, 320)
BATCH, PLAIN = Batch(1, 8), Variant()
GRAPH = Variant(frames="bgr", nms=True)
TYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT32": np.int32}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The packaged detector as a bundle, with the batch and variant asked for."""
    made = {}

    def make(batch=BATCH, variant=PLAIN):
        if (batch, variant) not in made:
            target = tmp_path_factory.mktemp("triton") / "pictograms"
            made[batch, variant] = Bundle.open(export(SOURCE, target, Options(SIZE, batch, variant=variant)))
        return made[batch, variant]

    return make


@pytest.fixture
def with_engine(detector, tmp_path):
    """A bundle that holds an engine too; what is in the file is nothing to Triton's configuration."""

    def make(profile="1-4-8", kind="trt"):
        path = tmp_path / "bundle"
        path.mkdir()
        for file in detector().path.glob("*.*"):
            (path / file.name).write_bytes(file.read_bytes())
        (path / "engine.plan").write_bytes(b"plan")
        target = {"sm": "86", "profile": profile}
        engine = Artifact("engine.plan", kind, "fp16", sha256_of(path / "engine.plan"), target=target)
        spec = dataclasses.replace(detector().spec, golden=())
        modeljson.write(dataclasses.replace(spec, artifacts=(engine, *spec.artifacts)), path / "model.json")
        return Bundle.open(path)

    return make


def read(folder):
    """The configuration in a model's folder; whatever Triton does not know is an error."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def written(bundle, folder, **options):
    """Write a repository and give each model's configuration by name, in the order written."""
    paths = triton.write(bundle, folder, triton.Options(**options))
    return {path.name: read(path) for path in paths}


class Repository:
    """What Triton does with a repository, without its batching: shapes are checked, ensembles run step by step."""

    def __init__(self, folder):
        self.folder = folder
        self.configs = {path.parent.name: read(path.parent) for path in folder.glob("*/config.pbtxt")}

    def infer(self, name, tensors):
        config = self.configs[name]
        assert config.name == name
        self.check(config, config.input, tensors)
        if config.platform == "ensemble":
            pool = dict(tensors)
            for step in config.ensemble_scheduling.step:
                given = {key: pool[value] for key, value in step.input_map.items()}
                found = self.infer(step.model_name, given)
                pool.update({value: found[key] for key, value in step.output_map.items()})
        else:
            file = self.folder / name / "1" / "model.onnx"
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
            names = [one.name for one in session.get_outputs()]
            pool = dict(zip(names, session.run(names, tensors), strict=True))
        outputs = {one.name: pool[one.name] for one in config.output}
        self.check(config, config.output, outputs)
        return outputs

    @staticmethod
    def check(config, declared, tensors):
        assert {one.name for one in declared} == set(tensors)
        for one in declared:
            shape = tensors[one.name].shape
            if config.max_batch_size:
                assert shape[0] <= config.max_batch_size
                shape = shape[1:]
            assert len(one.dims) == len(shape)
            assert all(dim in (-1, side) for dim, side in zip(one.dims, shape, strict=True))
            assert tensors[one.name].dtype == TYPES[DataType.Name(one.data_type)]


def frames(spec):
    """Pictures as the runtime would put them before a model that takes frames."""
    device = Device(spec)
    tensors, placements = device.preprocess([cv2.imread(str(path)) for path in PICTURES])
    return next(iter(tensors.values())), placements, device


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_a_model_that_does_all_itself_is_served_as_one(detector, tmp_path):
    bundle = detector(variant=GRAPH)
    configs = written(bundle, tmp_path)
    tensor, placements, device = frames(bundle.spec)
    found = device.postprocess(Repository(tmp_path).infer("pictograms", {"images": tensor}), placements)

    assert list(configs) == ["pictograms"]
    with load(bundle) as model:
        same(found, model.batch([cv2.imread(str(path)) for path in PICTURES]))
    assert sum(map(len, found)) > 20


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_an_ensemble_finds_what_the_runtime_finds(detector, tmp_path, color):
    bundle = detector()
    configs = written(bundle, tmp_path, ensemble=True, color=color)
    tensor, placements, device = frames(detector(variant=GRAPH).spec)
    pixels = tensor if color == "bgr" else tensor[..., ::-1]
    found = device.postprocess(Repository(tmp_path).infer("pictograms", {"frames": pixels}), placements)

    assert list(configs) == ["pictograms_frames", "pictograms_network", "pictograms_boxes", "pictograms"]
    with load(bundle) as model:
        same(found, model.batch([cv2.imread(str(path)) for path in PICTURES]))


def test_an_ensemble_takes_only_the_parts_it_needs(detector, tmp_path):
    bundle = detector(variant=Variant(nms=True))
    configs = written(bundle, tmp_path, ensemble=True)
    assert list(configs) == ["pictograms_frames", "pictograms_network", "pictograms"]
    assert [one.name for one in configs["pictograms"].output] == ["num_dets", "boxes", "scores", "classes"]


def test_a_classifier_gets_frames_and_its_labels(tmp_path):
    golden = seeded.Golden("resnet-basic")
    built = graphs.build(golden.checkpoint(), size=golden.size, batch=Batch(1, 8), name="resnet")
    bundle = Bundle.open(write_bundle(built.model, built.spec, tmp_path / "bundle"))
    configs = written(bundle, tmp_path / "models", ensemble=True)
    tensor, placements, device = frames(in_graph.alone(bundle.spec, "bgr")[1])
    found = device.postprocess(Repository(tmp_path / "models").infer("resnet", {"frames": tensor}), placements)

    assert configs["resnet"].output[0].label_filename == "labels.txt"
    assert (tmp_path / "models" / "resnet" / "labels.txt").read_text().splitlines() == list(bundle.spec.labels)
    with load(bundle) as model:
        expected = model.batch([cv2.imread(str(path)) for path in PICTURES])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.class_ids, other.class_ids)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_an_open_batch_is_formed_by_triton(detector, tmp_path):
    config = written(detector(), tmp_path, instances=2, device="gpu", delay_us=50)["pictograms"]
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 8)
    assert list(config.input[0].dims) == [3, 256, 320]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 50
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, ModelInstanceGroup.KIND_GPU)
    assert config.version_policy.latest.num_versions == 1
    assert [(one.batch_size, list(one.inputs["images"].dims)) for one in config.model_warmup] == [
        (1, [3, 256, 320]),
        (8, [3, 256, 320]),
    ]


@pytest.mark.parametrize(("batch", "first", "warm"), [(Batch(2, 2), 2, 2), (Batch(2, 4), -1, 2), (Batch(1, 1), 1, 1)])
@pytest.mark.parametrize("ensemble", [False, True])
def test_a_batch_that_triton_cannot_form_is_the_clients(detector, tmp_path, batch, first, warm, ensemble):
    configs = written(detector(batch), tmp_path, ensemble=ensemble)
    for config in configs.values():
        assert config.max_batch_size == 0
        assert config.input[0].dims[0] == first
        assert not config.HasField("dynamic_batching")
        for one in config.model_warmup:
            assert one.batch_size == 1
            assert next(iter(one.inputs.values())).dims[0] == warm
    whole = configs["pictograms"]
    kind = np.uint8 if ensemble else np.float32
    shape = (batch.max, *whole.input[0].dims[1:])
    outputs = Repository(tmp_path).infer("pictograms", {whole.input[0].name: np.zeros(shape, kind)})
    assert all(len(one) == batch.max for one in outputs.values())


def test_an_engine_is_served_by_its_own_profile(with_engine, tmp_path):
    configs = written(with_engine("1-3-6"), tmp_path / "models", artifact="engine.plan", ensemble=True)
    network = configs["pictograms_network"]

    assert (network.backend, network.max_batch_size) == ("tensorrt", 6)
    assert list(network.dynamic_batching.preferred_batch_size) == [3, 6]
    assert {config.max_batch_size for config in configs.values()} == {6}
    assert (tmp_path / "models" / "pictograms_network" / "1" / "model.plan").read_bytes() == b"plan"
    assert configs["pictograms_boxes"].backend == "onnxruntime"


def test_an_engine_of_more_than_one_picture_is_the_clients_to_fill(with_engine, tmp_path):
    config = written(with_engine("4-4-8"), tmp_path / "models", artifact="engine.plan")["pictograms"]
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 3, 256, 320])


def test_clients_are_told_what_the_model_wants(detector, tmp_path):
    bundle = detector()
    configs = written(bundle, tmp_path, ensemble=True)
    facts = {key: value.string_value for key, value in configs["pictograms"].parameters.items()}

    assert json.loads(facts["labels"]) == list(bundle.spec.labels)
    assert json.loads(facts["preprocess"])["fit"] == "letterbox"
    assert json.loads(facts["decode"])["where"] == "graph"
    assert facts["task"] == "detect"
    assert not configs["pictograms_network"].parameters


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"artifact": "model.fp16.onnx"}, UsageError, "holds no model.fp16.onnx"),
        ({"artifact": "engine.plan"}, ExportError, "no backend for TensorRT-RTX"),
        ({"name": "../out"}, UsageError, "no name for a model"),
        ({"device": "tpu"}, UsageError, "'tpu' is not one of"),
        ({"instances": 0}, UsageError, "0 instances"),
        ({"delay_us": -1}, UsageError, "-1 us"),
        ({"color": "rgb"}, UsageError, "--frames is for an ensemble"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(with_engine, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        triton.write(with_engine(kind="rtx"), tmp_path / "models", triton.Options(**options))
    assert not (tmp_path / "models").exists()


def test_an_engine_does_not_run_on_a_cpu(with_engine, tmp_path):
    with pytest.raises(UsageError, match="runs on a GPU only"):
        triton.write(with_engine(), tmp_path / "models", triton.Options(artifact="engine.plan", device="cpu"))


def test_there_is_no_ensemble_of_one(detector, tmp_path):
    with pytest.raises(UsageError, match="already"):
        triton.write(detector(variant=GRAPH), tmp_path, triton.Options(ensemble=True))


def test_frames_that_the_model_takes_already_keep_their_order(detector, tmp_path):
    bundle = detector(variant=Variant(frames="rgb"))
    with pytest.raises(UsageError, match="takes frames in rgb order"):
        triton.write(bundle, tmp_path, triton.Options(ensemble=True, color="bgr"))
    configs = written(bundle, tmp_path, ensemble=True, color="rgb")
    assert list(configs) == ["pictograms_network", "pictograms_boxes", "pictograms"]


def test_writing_again_replaces_a_model_and_leaves_its_neighbours(detector, tmp_path):
    (tmp_path / "other" / "1").mkdir(parents=True)
    written(detector(), tmp_path, ensemble=True)
    before = sha256_of(tmp_path / "pictograms_network" / "1" / "model.onnx")
    written(detector(variant=GRAPH), tmp_path)

    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"other", "pictograms", "pictograms_frames", "pictograms_network", "pictograms_boxes"}
    assert read(tmp_path / "pictograms").backend == "onnxruntime"
    assert sha256_of(tmp_path / "pictograms_network" / "1" / "model.onnx") == before


@pytest.mark.parametrize("refused", ["pictograms_frames", "pictograms_network", "pictograms_boxes", "pictograms"])
def test_where_one_part_of_an_ensemble_is_refused_all_stay_as_they_were(detector, tmp_path, refused):
    (tmp_path / refused).mkdir()
    (tmp_path / refused / "thesis.txt").write_text("important")
    with pytest.raises(BundleError, match=r"no config\.pbtxt"):
        written(detector(), tmp_path, ensemble=True)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == [f"{refused}/thesis.txt"]


def test_an_ensemble_comes_into_its_place_after_its_parts(detector, tmp_path, monkeypatch):
    source, placed, put = detector(), [], bundle_module._put

    def told(fresh, target):
        placed.append(target.name)
        put(fresh, target)

    monkeypatch.setattr(bundle_module, "_put", told)
    paths = triton.write(source, tmp_path, triton.Options(ensemble=True))
    assert placed == [path.name for path in paths]
    assert placed[-1] == "pictograms"


def test_a_folder_that_is_no_model_is_not_replaced(detector, tmp_path):
    (tmp_path / "pictograms").mkdir()
    (tmp_path / "pictograms" / "thesis.txt").write_text("important")
    with pytest.raises(BundleError, match=r"no config\.pbtxt"):
        triton.write(detector(), tmp_path, triton.Options())
    assert (tmp_path / "pictograms" / "thesis.txt").read_text() == "important"


def test_the_verb_writes_a_repository(detector, tmp_path, capsys):
    assert main(["triton", str(detector().path), "-o", str(tmp_path), "--ensemble", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Path(one).name for one in said["models"]][-1] == "pictograms"
    assert main(["triton", str(detector().path), "-o", str(tmp_path), "--artifact", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: pictograms holds no nothing to serve")


@given(st.text())
def test_any_text_is_read_back_as_it_was(value):
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    assert text_format.Parse(pbtxt.text({"string_value": value}), ModelParameter()).string_value == value


@pytest.mark.parametrize(("where", "name"), [("inputs", "frames"), ("outputs", "boxes")])
def test_parts_whose_names_would_meet_are_refused(detector, tmp_path, where, name):
    bundle = Bundle.open(detector().path)
    (tensor,) = getattr(bundle.spec, where)
    bundle.spec = dataclasses.replace(bundle.spec, **{where: (dataclasses.replace(tensor, name=name),)})
    with pytest.raises(ExportError, match=f"called {name} already"):
        triton.write(bundle, tmp_path / "models", triton.Options(ensemble=True))
    assert not (tmp_path / "models").exists()
