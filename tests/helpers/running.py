"""`edgeinfer run` in this process."""

import json

from edgeinfer import cli


def run(*args):
    """Its exit code."""
    return cli.main(["run", *map(str, args)])


def records(text):
    """What `--json` wrote, line by line."""
    return [json.loads(line) for line in text.splitlines()]
