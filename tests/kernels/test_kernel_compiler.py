"""Every kernel compiles for every architecture without a warning; the cache never does harm."""

import shutil

import pytest

from edgeinfer.devices import compiler
from edgeinfer.devices.compiler import cubin
from edgeinfer.errors import BackendUnavailable, DeviceError

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_110", "sm_120")
KERNELS = {
    "preprocess": ["preprocess"],
    "decode": ["decode"],
    "nms": ["order", "overlap", "choose"],
    "topk": ["topk"],
}
EMPTY = 'extern "C" __global__ void empty() {}\n'
WARNS = 'extern "C" __global__ void warns() { int unused; }\n'
FAILS = 'extern "C" __global__ void fails() { missing(); }\n'


@pytest.fixture(autouse=True)
def _nvrtc():
    try:
        compiler.library()
    except BackendUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path):
    """A function of a text: a source file of it."""

    def writer(text):
        (tmp_path / "kernel.cu").write_text(text)
        return tmp_path / "kernel.cu"

    return writer


@pytest.fixture
def no_compiler(monkeypatch):
    """Call it, and compiling becomes an error."""

    def compile_nothing(*_, **__):
        raise AssertionError("compiled again")

    return lambda: monkeypatch.setattr(compiler, "_compile", compile_nothing)


def test_every_kernel_file_is_tested():
    assert {path.stem for path in compiler.KERNELS.glob("*.cu")} == set(KERNELS)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles_without_a_warning(name, arch):
    code = cubin(compiler.KERNELS / f"{name}.cu", arch, strict=True)

    assert code.startswith(b"\x7fELF")
    assert all(b".text." + kernel.encode() in code for kernel in KERNELS[name])


def test_a_warning_is_an_error_to_the_tests_only(write):
    with pytest.raises(DeviceError, match="never referenced"):
        cubin(write(WARNS), "sm_87", strict=True)
    assert cubin(write(WARNS), "sm_87").startswith(b"\x7fELF")


def test_an_error_carries_the_compilers_words(write):
    with pytest.raises(DeviceError, match=r'kernel.cu does not compile for sm_87: .*"missing" is undefined'):
        cubin(write(FAILS), "sm_87")


def test_an_architecture_the_compiler_does_not_know_is_an_error(write):
    with pytest.raises(DeviceError, match="does not compile for sm_12") as caught:
        cubin(write(EMPTY), "sm_12")
    assert "nvidia-cuda-nvrtc-cu12" in caught.value.hint


@pytest.mark.parametrize(("arch", "known"), [("sm_999", "sm_1"), ("sm_91", "sm_90")])
def test_for_a_gpu_newer_than_the_compiler_the_driver_is_given_ptx(write, arch, known):
    ptx = cubin(write(EMPTY), arch).decode()

    assert f"\n.target {known}" in ptx
    assert ptx.endswith("\0")  # as the driver wants text
    with pytest.raises(DeviceError, match=f"does not compile for {arch}"):
        cubin(write(EMPTY), arch, strict=True)


def test_a_second_time_nothing_is_compiled(write, no_compiler):
    source = write(EMPTY)
    first = cubin(source, "sm_87")
    no_compiler()

    assert cubin(source, "sm_87") == first
    with pytest.raises(AssertionError, match="compiled again"):
        cubin(source, "sm_90")


def test_a_changed_header_is_compiled_again(write, tmp_path, no_compiler):
    (tmp_path / "kernel.cuh").write_text("#define SIZE 1\n")
    source = write(f'#include "kernel.cuh"\n{EMPTY}')
    cubin(source, "sm_87")
    (tmp_path / "kernel.cuh").write_text("#define SIZE 2\n")
    no_compiler()

    with pytest.raises(AssertionError, match="compiled again"):
        cubin(source, "sm_87")


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 5000])
def test_a_damaged_cache_is_compiled_over(write, cache, damage):
    source = write(EMPTY)
    first = cubin(source, "sm_87")
    (kept,) = cache.rglob("*.cubin")
    whole = kept.read_bytes()
    kept.write_bytes(damage)

    assert cubin(source, "sm_87") == first
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(write, cache):
    cache.write_text("a file where the folder should be")

    assert cubin(write(EMPTY), "sm_87").startswith(b"\x7fELF")


def test_a_full_disk_leaves_no_half_file(write, cache, monkeypatch):
    source = write(EMPTY)
    cubin(source, "sm_87")
    shutil.rmtree(cache)

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(compiler.Path, "replace", refuse)

    assert cubin(source, "sm_87").startswith(b"\x7fELF")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
