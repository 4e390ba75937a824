"""Command lines for a Python process of our own, which finds the modules that this one finds.

By themselves `python -m` and `python -c` look into the working directory first, and run what lies there under the name
of a library.
"""

from __future__ import annotations

import sys

MODULE = "import runpy; del sys.argv[0]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"


def program(code: str) -> list[str]:
    """What runs this code."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!a}\n{code}"]


def module(name: str, *words: str) -> list[str]:
    """What `python -m name words...` is meant to run."""
    return [*program(MODULE), name, *words]
