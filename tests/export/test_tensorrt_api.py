"""compile.py and the modules under it against NVIDIA's real names, 8.5.3 to 11.4: no name is used unguarded that
some release has not, and on a stand-in of each release the right branches are taken.
"""

import ast
import sys
from pathlib import Path

import pytest

import edgeinfer.backends
import edgeinfer_export
from edgeinfer.errors import BackendUnavailable, ExportError, UsageError
from edgeinfer_export import vendor
from edgeinfer_export.compile import Options, compile_onnx
from helpers import fake_tensorrt, vendornames

EXPORT, BACKENDS = Path(edgeinfer_export.__path__[0]), Path(edgeinfer.backends.__path__[0])
BUILDER = {
    "trt": "",
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "error": "ParserError",
}
CACHE = {"config": "IBuilderConfig", "cache": "ITimingCache", "other": "ITimingCache"}
RUNTIME = {
    "trt": "",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig",
    "cache_": "IRuntimeCache",
}
# what a variable of that name is, file by file
FILES = {
    EXPORT / "builder.py": BUILDER,
    EXPORT / "timingcache.py": CACHE,
    EXPORT / "compile.py": {"trt": ""},
    EXPORT / "vendor.py": {"trt": ""},
    BACKENDS / "_nvinfer.py": RUNTIME,
    BACKENDS / "_nvplan.py": RUNTIME,
    BACKENDS / "_nvlibrary.py": RUNTIME,
}
# functions reached only where the library has this name
BEHIND = {"_set_precision": "BuilderFlag.FP16", "_half_tensors": "BuilderFlag.FP16", "_retypes": "BuilderFlag.FP16"}
RELEASES = vendornames.releases()
TENSORRT = [release for release in RELEASES if not release.startswith("rtx")]
FACTS = {"sm": "87", "gpu": "Orin", "l4t": "36.4.3"}


class Uses(ast.NodeVisitor):
    """Vendor names in one function: what is used, with how many arguments, and what is asked for beforehand."""

    def __init__(self, roots):
        self.roots, self.used, self.guards = dict(roots), {}, set()

    def path(self, node):
        """The vendor's dotted name of an expression; None for what is ours."""
        if isinstance(node, ast.Name):
            return self.roots.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self.roots.get(node.attr)
        owner = self.path(node.value)
        return None if owner is None else f"{owner}.{node.attr}".lstrip(".")

    def visit_Assign(self, node):
        target, value = node.targets[0], node.value
        several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=True) if several else [(target, value)]
        for name, what in pairs:
            if isinstance(name, ast.Name) and isinstance(what, ast.Attribute) and self.path(what):
                self.roots[name.id] = self.path(what)
        self.generic_visit(node)

    def visit_Call(self, node):
        asked = isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
        asked = asked or (isinstance(node.func, ast.Attribute) and node.func.attr == "_need")
        if asked and isinstance(node.args[1], ast.Constant):
            owner = self.path(node.args[0])
            if owner is not None:
                self.guards.add(f"{owner}.{node.args[1].value}".lstrip("."))
        elif isinstance(node.func, ast.Attribute) and self.path(node.func):
            starred = any(isinstance(one, ast.Starred) for one in node.args)
            self.used[self.path(node.func)] = None if starred else len(node.args)
        self.generic_visit(node)

    def visit_Attribute(self, node):
        if self.path(node) and "." in f".{self.path(node)}":
            self.used.setdefault(self.path(node), None)
        self.generic_visit(node)


def functions(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def faults(function, roots):
    uses = Uses(roots)
    uses.visit(function)
    guards = uses.guards | ({BEHIND[function.name]} if function.name in BEHIND else set())
    for name, count in uses.used.items():
        # a member of an enumeration always has its name, a module its version and its own
        if name in roots.values() or name.startswith("__") or (".name" in name and name.count(".") >= 2):
            continue
        having = vendornames.having(name)
        if not any(having >= vendornames.having(guard) for guard in guards) and having < set(RELEASES):
            yield f"{function.name}: {name} is missing from {', '.join(sorted(set(RELEASES) - having))}"
        if count is not None:
            yield from (
                f"{function.name}: {name}{one} is given {count} arguments" for one in misfits(name, count, guards)
            )


def misfits(name, count, guards):
    """Signatures that a call does not fit, in every release or in those that one of the guards lets through."""
    kinds = vendornames.names().get(name, {})
    signatures = {release: kind for release, kind in kinds.items() if kind.startswith("(")}
    for scope in (vendornames.having(guard) & signatures.keys() for guard in guards):
        if scope and all(vendornames.takes(signatures[release], count) for release in scope):
            return set()
    return {one for one in signatures.values() if not vendornames.takes(one, count)}


@pytest.mark.parametrize("file", [file for file in FILES if file.exists()], ids=lambda file: file.name)
def test_every_vendor_name_exists_in_every_release_or_is_asked_for(file):
    assert [fault for function in functions(file) for fault in faults(function, FILES[file])] == []


def test_the_check_sees_a_missing_name_and_a_wrong_call():
    bad = ast.parse("def f(self, trt, config):\n trt.BuilderFlag.FP16\n config.set_flag()\n trt.Nothing").body[0]
    assert len(list(faults(bad, BUILDER))) == 3


def test_the_check_knows_what_builder_uses():
    uses = Uses(BUILDER)
    for function in functions(EXPORT / "builder.py"):
        uses.visit(function)
    assert {"Builder", "IBuilderConfig.set_flag", "NetworkDefinitionCreationFlag.STRONGLY_TYPED"} <= set(uses.used)


@pytest.mark.parametrize(
    "name",
    ["compile", "builder", "buildoptions", "vendor", "targets", "timingcache", "complaints", "engines"],
)
def test_modules_of_the_compiler_are_python_3_9(name):
    ast.parse((EXPORT / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.fixture
def onnx(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"an ONNX file")
    return file


@pytest.fixture
def on(monkeypatch, onnx):
    """Compiles on a stand-in of a release, on a machine with a GPU; gives the module and what was compiled."""
    monkeypatch.setattr(vendor, "gpu", lambda *_: dict(FACTS))

    def compile_on(release, progress=None, answers=(), **options):
        trt = fake_tensorrt.Fake(release, answers)
        monkeypatch.setitem(sys.modules, trt.__name__, trt)
        out = onnx.with_name("engine.plan")
        return trt, compile_onnx(onnx, out, Options(batch=(1, 4, 8), **options), progress)

    return compile_on


def network_flags(trt):
    """The names of the network creation flags that were set."""
    [(flags,)] = trt.made("Builder.create_network")
    members = [one for one in vars(trt.NetworkDefinitionCreationFlag).values() if isinstance(one, fake_tensorrt.Member)]
    return {one.name for one in members if flags & 1 << int(one)}


def builder_flags(trt):
    return {flag.name for (flag,) in trt.made("IBuilderConfig.set_flag")}


@pytest.mark.parametrize("release", TENSORRT)
def test_every_release_compiles_with_every_plain_option(on, onnx, release):
    trt, compiled = on(release, workspace_bytes=1 << 28, tf32=False, timing_cache=onnx.with_name("timings"))
    assert compiled.path.read_bytes() == fake_tensorrt.PLAN
    assert compiled.built_with == f"tensorrt {release}"
    assert compiled.inputs[0] == ("images", "float32", (-1, 3, 32, 32))
    assert {**FACTS, "profile": "1-4-8"}.items() <= compiled.target.items()
    assert onnx.with_name("timings").read_bytes() == b"timings"
    assert [args[1:] for args in trt.made("IOptimizationProfile.set_shape")] == [
        ((1, 3, 32, 32), (4, 3, 32, 32), (8, 3, 32, 32))
    ]


def test_8_5_gets_explicit_batch_and_fp16_with_float32_layers_kept(on):
    trt, _ = on("8.5.3.1", precision="fp16")
    assert network_flags(trt) == {"EXPLICIT_BATCH"}
    assert builder_flags(trt) == {"FP16", "PREFER_PRECISION_CONSTRAINTS"}


def test_10_is_strongly_typed_without_precision_flags(on):
    trt, _ = on("10.3.0", precision="fp16")
    assert network_flags(trt) == {"EXPLICIT_BATCH", "STRONGLY_TYPED"}
    assert builder_flags(trt) == set()


def test_11_gets_neither_batch_nor_precision_flags(on):
    trt, _ = on("11.4.0.106", precision="fp16")
    assert network_flags(trt) == {"STRONGLY_TYPED"}
    assert builder_flags(trt) == set()


def test_8_5_gets_int8_and_the_float16_that_the_graph_holds(on):
    trt, _ = on("8.5.3.1", precision="int8")
    assert builder_flags(trt) == {"INT8", "FP16"}
    assert trt.made("ILayer.precision") == []


def test_only_layers_behind_no_float16_are_held_to_float32(on):
    trt, _ = on("8.5.3.1", precision="fp16")
    assert [(layer.name, kind.name) for layer, kind in trt.made("ILayer.precision")] == [("sigmoid", "FLOAT")]


@pytest.mark.parametrize(("release", "typed"), [("8.5.3.1", False), ("10.3.0", False), ("11.4.0.106", True)])
def test_dla_falls_back_to_the_gpu_and_says_which_layers_do(on, release, typed):
    trt, compiled = on(release, precision="fp16", dla_core=1)
    assert compiled.on_gpu == ("sigmoid",)
    assert compiled.target["dla"] == "1"
    assert "GPU_FALLBACK" in builder_flags(trt)
    assert ("STRONGLY_TYPED" in network_flags(trt)) is typed


def test_a_dla_core_that_is_not_there_is_refused(on):
    with pytest.raises(ExportError, match="core 2 was asked for, and this machine has 2"):
        on("10.3.0", precision="fp16", dla_core=2)


def test_the_dla_does_not_compute_in_float32(on):
    with pytest.raises(ExportError, match="fp16 or int8"):
        on("10.3.0", dla_core=0)


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible", "strip_weights"])
def test_options_that_8_5_has_not_name_the_release(on, option):
    with pytest.raises(ExportError, match=r"tensorrt 8\.5\.3\.1 has no"):
        on("8.5.3.1", **{option: True})


def test_8_5_has_no_optimisation_levels(on):
    with pytest.raises(ExportError, match="optimisation levels"):
        on("8.5.3.1", optimization_level=5)


def test_compatible_engines_say_so_and_name_no_gpu(on):
    trt, compiled = on("10.3.0", version_compatible=True, hardware_compatible=True, optimization_level=5)
    assert compiled.target["compatible"] == "hardware+version"
    assert "gpu" not in compiled.target
    assert builder_flags(trt) == {"VERSION_COMPATIBLE"}


@pytest.mark.parametrize("release", TENSORRT)
def test_libraries_beside_tensorrt_can_be_left_out(on, release):
    trt, _ = on(release, external_tactics=False)
    [(allowed,)] = trt.made("IBuilderConfig.set_tactic_sources")
    for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
        source = getattr(trt.TacticSource, name, None)
        assert source is None or not allowed & 1 << int(source)
    assert len(trt.made("IBuilderConfig.set_preview_feature")) == (release[0] == "8")


def test_progress_is_told_where_the_release_tells_it(on):
    told = []
    on("8.5.3.1", progress=lambda *step: told.append(step))
    assert told == []
    on("10.3.0", progress=lambda *step: told.append(step))
    assert told == [("Building", 1, 2), ("Building", 2, 2)]


def test_an_interrupt_in_the_library_is_raised_and_leaves_no_file(on, onnx):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on("10.3.0", progress=interrupted)
    assert not onnx.with_name("engine.plan").exists()


def test_a_failed_build_quotes_the_library_and_leaves_no_file(on, onnx):
    def build(builder, _network, _config):
        builder.logger.log(fake_tensorrt.Member("ERROR", 1), "[optimizer.cpp::1] Error Code 2: OutOfMemory (no memory)")

    with pytest.raises(ExportError, match="Error Code 2: OutOfMemory") as caught:
        on("10.3.0", answers={"Builder.build_serialized_network": build})
    assert "lower --workspace" in caught.value.hint
    assert not onnx.with_name("engine.plan").exists()


def test_a_builder_out_of_memory_is_one_error(on):
    def build(*_):
        raise MemoryError

    with pytest.raises(ExportError, match="MemoryError") as caught:
        on("10.3.0", answers={"Builder.build_serialized_network": build})
    assert "memory" in caught.value.hint


def test_a_builder_that_cannot_start_is_unavailable(on):
    def start(*_):
        raise TypeError("factory function returned nullptr")

    with pytest.raises(BackendUnavailable, match="cannot start its builder"):
        on("10.3.0", answers={"Builder.__init__": start})


@pytest.mark.parametrize(("release", "named"), [("8.5.3.1", "node 7"), ("10.3.0", "Det node /det")])
def test_parser_errors_name_the_node(on, release, named):
    class Error:
        def __init__(self):
            self.node, self.desc = (lambda: 7), (lambda: "no importer")
            self.code = lambda: fake_tensorrt.Member("UNSUPPORTED_NODE", 8)
            if release != "8.5.3.1":
                self.node_name, self.node_operator = (lambda: "/det"), (lambda: "Det")

    answers = {
        "OnnxParser.parse_from_file": False,
        "OnnxParser.num_errors": 1,
        "OnnxParser.get_error": lambda *_: Error(),
    }
    with pytest.raises(ExportError, match=f"{named}: unsupported node: no importer"):
        on(release, answers=answers)


def test_a_capability_that_the_library_ignores_is_an_error(on):
    with pytest.raises(ExportError, match="does not compile for sm86"):
        on(RELEASES[-1], library="rtx", capabilities=(86,), answers={"IBuilderConfig.set_compute_capability": False})


def test_a_broken_timing_cache_is_replaced(on, onnx):
    onnx.with_name("timings").write_bytes(b"garbage")
    given = []

    def create(_config, content):
        given.append(content)
        return None if content == b"garbage" else fake_tensorrt.Stand()

    on("10.3.0", timing_cache=onnx.with_name("timings"), answers={"IBuilderConfig.create_timing_cache": create})
    assert given[:2] == [b"garbage", b""]
    assert onnx.with_name("timings").read_bytes() == b"timings"


def test_a_timing_cache_that_cannot_be_kept_is_a_warning(on, onnx):
    _, compiled = on("10.3.0", timing_cache=onnx.parent / "gone" / "timings")
    assert [warning for warning in compiled.warnings if "timings cannot be written" in warning]


def test_tensorrt_is_not_asked_for_another_gpu():
    with pytest.raises(UsageError, match="only for the GPU it runs on"):
        Options(capabilities=(86,))
