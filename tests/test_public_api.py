"""The names users rely on."""

import ast
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import cv2
import pytest

import edgeinfer
from edgeinfer import errors
from helpers import bundles
from typed import embedding

ROOT = Path(edgeinfer.__file__).parent
CORE = [
    "errors",
    "spec",
    "modeljson",
    "onnxfile",
    "bundle",
    "ladder",
    "loading",
    "golden",
    "results",
    "lanes",
    "pipeline",
    "backends",
    "devices",
]
HEAVY = {"numpy", "cv2", "onnxruntime", "onnx", "torch", "tensorrt", "cuda", "rich"}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_public_names_are_sorted_and_all_exist():
    assert edgeinfer.__all__ == sorted(edgeinfer.__all__)
    assert all(getattr(edgeinfer, name) for name in edgeinfer.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edgeinfer.nothing  # noqa: B018


def test_errors_can_be_named_before_anything_else_was_used():
    code = "import edgeinfer\ntry: edgeinfer.load('nowhere')\nexcept edgeinfer.errors.BundleError: print('told')"
    assert python(code) == "told\n"
    assert python("import edgeinfer; print(edgeinfer.errors.SourceError.__name__)") == "SourceError\n"


def test_completion_offers_the_public_names_and_nothing_else():
    assert {*dir(edgeinfer)} == {*edgeinfer.__all__, "__version__"}


def test_completion_on_a_model_offers_what_its_user_calls_and_nothing_else(detector):
    with edgeinfer.load(detector) as model:
        offered = {name for name in dir(model) if not name.startswith("_")}
    told = {
        "spec",
        "backend",
        "artifact",
        "plan",
        "group",
        "contexts",
        "device",
        "engine",
        "graph",
        "timings",
        "upgrade",
    }
    assert offered == told | {"batch", "infer", "swap", "close"}


def test_a_typed_program_needs_no_other_names_than_those_of_edgeinfer(detector, classifier, tmp_path):
    image = bundles.picture("green", 48, 64)
    cv2.imwrite(str(tmp_path / "one.png"), image)
    with embedding.opened(detector) as model, edgeinfer.load(classifier) as names:
        assert embedding.handled(embedding.boxes_of(model, image), image) == ["green"]
        assert embedding.named(names, image) == "green"
        assert embedding.inspected(edgeinfer.Cascade(model, names), image)[0][1] == "green"
        assert list(embedding.seen(tmp_path / "one.png", model)) == [str(tmp_path / "one.png")]
    with pytest.raises(SystemExit, match=r"does not exist.* \(make one: edgeinfer export"):
        embedding.opened(tmp_path / "nothing")


def test_the_error_tree_drawn_in_the_docstring_is_the_real_one():
    classes = [one for one in vars(errors).values() if isinstance(one, type)]
    drawn = set(errors.__doc__.split()) & {one.__name__ for one in classes}

    assert drawn == {one.__name__ for one in classes}
    assert all(issubclass(one, errors.EdgeInferError) for one in classes)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from Python 3.11 on")
@pytest.mark.parametrize("carried", [lambda error: error, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_traceback_shows_the_hint_once_also_one_from_another_process(carried):
    error = carried(errors.BackendUnavailable("no such library", hint="pip install it"))
    lines = traceback.format_exception_only(error)

    assert lines == ["edgeinfer.errors.BackendUnavailable: no such library\n", "hint: pip install it\n"]
    assert (str(error), error.hint) == ("no such library", "pip install it")
    assert len(traceback.format_exception_only(errors.InputError("no hint"))) == 1


def test_importing_edgeinfer_loads_nothing_heavy_not_even_numpy_and_of_its_own_the_errors_alone():
    loaded = set(python("import sys, edgeinfer; print(*sys.modules)").split())

    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("edgeinfer")} == {"edgeinfer", "edgeinfer.errors"}


def test_importing_edgeinfer_takes_less_than_100_ms_of_a_processor_in_the_best_of_five_processes():
    code = "import time; t = time.process_time(); import edgeinfer; print(time.process_time() - t)"

    assert min(float(python(code)) for _ in range(5)) < 0.1


@pytest.mark.parametrize("name", CORE)
def test_core_modules_load_without_the_heavy_libraries(name):
    loaded = set(python(f"import sys, edgeinfer.{name}; print(*sys.modules)").split())

    assert not loaded & (HEAVY - {"numpy"})


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_runtime_parses_as_python_3_9(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_names_the_exporter(path):
    names = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    ]

    assert not [name for name in names if name and name.startswith("edgeinfer_export")]
