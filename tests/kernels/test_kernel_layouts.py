"""The structures Python packs are those the kernels read."""

import numpy as np

from edgeinfer.devices import launch

STRUCTURES = {
    "Frame": launch.FRAME,
    "PreprocessArguments": launch.PREPROCESS,
    "Candidates": launch.CANDIDATES,
    "DecodeArguments": launch.DECODE,
    "SuppressArguments": launch.SUPPRESS,
    "TopkArguments": launch.TOPK,
}


def declared(kernels):
    """{structure: {field: offset}}, the size under "-"."""
    found = {}
    for line in kernels.library.layouts().decode().splitlines():
        structure, field, offset = line.split()
        found.setdefault(structure, {})[field] = int(offset)
    return found


def packed(dtype):
    return {**{name: dtype.fields[name][1] for name in dtype.names}, "-": dtype.itemsize}


def test_every_argument_has_the_kernels_fields_at_the_kernels_offsets(kernels):
    layouts = declared(kernels)

    assert {name: layouts[name] for name in STRUCTURES} == {name: packed(kind) for name, kind in STRUCTURES.items()}


def test_results_are_a_header_and_rows(kernels):
    layouts = declared(kernels)
    boxes, classes = launch.detect_result(7), launch.classify_result(7)

    assert boxes.fields["rows"][1] == layouts["Result"]["-"]
    assert boxes.itemsize == layouts["Result"]["-"] + 7 * layouts["Row"]["-"]
    assert {name: boxes.fields[name][1] for name in layouts["Result"] if name != "-"} == {
        name: offset for name, offset in layouts["Result"].items() if name != "-"
    }
    assert classes.fields["rows"][1] == layouts["TopkResult"]["-"]
    assert classes.itemsize == layouts["TopkResult"]["-"] + 7 * layouts["TopkRow"]["-"]
    assert (layouts["Row"]["x1"], layouts["Row"]["score"], layouts["Row"]["class_id"]) == (0, 16, 20)


def test_the_stand_in_for_half_precision_is_exact(kernels):
    halves = np.arange(65536, dtype=np.uint16)
    floats = np.array([kernels.library.half_to_float(int(half)) for half in halves], np.float32)
    with np.errstate(invalid="ignore"):  # NaN among them, which some processors complain of
        expected = halves.view(np.float16).astype(np.float32)

    np.testing.assert_array_equal(floats, expected)
