"""Good checkpoints with bytes changed, and arbitrary bytes: a checkpoint or one of our errors, nothing else."""

import tracemalloc

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgeinfer.errors import EdgeInferError
from edgeinfer_export import checkpoint
from helpers.hostile import GOOD, MIB, WEIGHT, refused
from helpers.hostile import safetensors_entry as entry
from helpers.pickling import Tensor, Writer, archive, legacy, module, safetensors

WHOLE = module("models.yolo.Model", parameters={"w": Tensor(WEIGHT)}, stride=Tensor(WEIGHT))


def test_a_long_safetensors_header_is_not_parsed(tmp_path):
    error = refused(tmp_path, safetensors(b'{"x":[' + b"[]," * (2 * MIB)), memory=8 * MIB)
    assert "limit" in str(error)


GOOD_FILES = {
    "zip": archive(GOOD),
    "zip of a whole model": archive({"ema": WHOLE}),
    "old": legacy(GOOD),
    "safetensors": safetensors({"x": entry(), "y": entry(8, 16)}, bytes(16)),
}
MUTATIONS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8)


def survives(path, content):
    """Read, use every tensor, or get one of our errors."""
    path.write_bytes(content)
    try:
        found = checkpoint.read(path)
    except EdgeInferError as error:
        assert str(error)
    else:
        assert sum(array.nbytes for array in found.tensors.values()) <= 8 * len(content)
        for array in found.tensors.values():
            array.copy()


def mutated(content, mutations):
    changed = bytearray(content)
    for place, value in mutations:
        changed[place % len(changed)] = value
    return bytes(changed)


RELAXED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@RELAXED
@given(kind=st.sampled_from(sorted(GOOD_FILES)), mutations=MUTATIONS, keep=st.integers(0, 400))
def test_changed_bytes_never_surprise(tmp_path, kind, mutations, keep):
    content = mutated(GOOD_FILES[kind], mutations)
    tracemalloc.start()
    try:
        survives(tmp_path / "changed.pt", content[: -keep or None] if keep < 100 else content)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@RELAXED
@given(mutations=MUTATIONS)
@example(mutations=[(133, 92)])  # a text opcode with an odd escape: pickletools warns
def test_a_changed_pickle_in_a_whole_archive_never_surprises(tmp_path, mutations):
    pickled = Writer().dump({"model": module("models.yolo.Model", parameters={"w": Tensor(WEIGHT)}, stride=[8])})
    survives(tmp_path / "changed.pt", archive(mutated(pickled, mutations), storages={"data/0": WEIGHT.tobytes()}))


@RELAXED
@given(opcodes=st.binary(max_size=60))
def test_any_bytes_as_a_pickle_never_surprise(tmp_path, opcodes):
    survives(tmp_path / "any.pt", archive(b"\x80\x02" + opcodes + b"."))


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(list(entry())), part, max_size=3),
    max_leaves=8,
)


@RELAXED
@given(header=JSON)
def test_any_safetensors_header_never_surprises(tmp_path, header):
    survives(tmp_path / "any.safetensors", safetensors({"x": entry(), "y": header}, bytes(16)))
