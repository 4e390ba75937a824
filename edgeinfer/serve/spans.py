"""Where a tensor lies in shared memory, and how requests say so; answers say nothing of it, as Triton's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgeinfer.serve.regions import Region

REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
PARAMETERS = (REGION, SIZE, OFFSET)  # of an input, or of an output that is asked for


class Span(NamedTuple):
    """Where one tensor lies in a region."""

    region: Region
    offset: int
    size: int
