"""What the tests of hostile checkpoints share: a good file to spoil, and what a refusal must look like."""

import tracemalloc

import numpy as np
import pytest

from edgeinfer.errors import CheckpointError
from edgeinfer_export import checkpoint
from helpers.pickling import Name, Tensor

MIB = 1 << 20
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
GOOD = {"model": {"fc.weight": Tensor(WEIGHT)}, "names": {0: "bus"}, "yaml": {"nc": 1}, "stride": [8]}
INERT = Name("models.common", "Conv")


def safetensors_entry(first=0, last=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def refused(tmp_path, content, expected=CheckpointError, memory=None):
    """The error that reading gives; with `memory`, after checking that no more bytes than that were allocated."""
    path = tmp_path / "hostile.pt"
    path.write_bytes(content)
    if memory:
        tracemalloc.start()
    try:
        with pytest.raises(expected) as caught:
            checkpoint.read(path)
        assert not memory or tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("hostile.pt: ")
    assert len(str(caught.value)) < 600
    assert caught.value.hint
    return caught.value
