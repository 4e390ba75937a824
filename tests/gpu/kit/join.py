"""Make the kit's folder again from the parts that `pack.py --parts` wrote, which lie beside this file.

    python join.py FOLDER

The standard library of Python 3.8 or newer is all it needs. The folder FOLDER/gpu-kit is made; parts that are missing
are named and nothing is written.
"""

import io
import sys
import tarfile
from pathlib import Path


class Joined(io.RawIOBase):
    """Files read as one."""

    def __init__(self, parts):
        self._parts = [part.open("rb") for part in parts]

    def readable(self):
        return True

    def readinto(self, buffer):
        while self._parts:
            count = self._parts[0].readinto(buffer)
            if count:
                return count
            self._parts.pop(0).close()
        return 0


def main(folder, here=Path(__file__).parent):
    found = {part.name: part for part in here.glob("kit.*-of-*")}
    count = int(next(iter(found), "kit.01-of-01").rpartition("-")[2])
    names = [f"kit.{place:02}-of-{count:02}" for place in range(1, count + 1)]
    missing = [name for name in names if name not in found]
    if missing:
        return f"error: {here} lacks {', '.join(missing)}"
    with tarfile.open(
        fileobj=io.BufferedReader(Joined([found[name] for name in names]), 1 << 20), mode="r|xz"
    ) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    print(Path(folder) / "gpu-kit")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
