"""What only some may do, tried by who may not."""

import os
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def nobody(path):
    """Root is nobody while the block lasts, whom every folder above `path` lets in; others are who they are."""
    root = os.geteuid() == 0
    for folder in path.parents if root else ():
        folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(NOBODY if root else os.geteuid())
    try:
        yield
    finally:
        os.seteuid(0 if root else os.geteuid())
