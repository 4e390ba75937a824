"""A recipe under the flags of a command line: what was typed wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer.cli import _exporter
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    import argparse

SUFFIX = ".toml"
# a recipe says what a model is, not where it goes or what is shown; and a file that is passed on starts no program
NOT_IN_RECIPES = ("help", "output", "json", "plan", "via", "via-python")


def applied(args: argparse.Namespace) -> argparse.Namespace:
    """`args` as they are when its source is a recipe: the recipe's keys, then the words typed; adds `recipe`."""
    if not args.source.endswith(SUFFIX):
        args.recipe = None
        return args
    recipe = _exporter.part("recipes").read(args.source, keys(args.parser))
    try:
        both: argparse.Namespace = args.parser.parse_args([*recipe.words, recipe.source])
    except UsageError as error:
        raise UsageError(f"{recipe.name}: {error}", hint=error.hint) from error
    args.parser.parse_args(args.words, both)  # leaves what is there where nothing was typed
    both.source, both.recipe = recipe.source, recipe
    return both


def keys(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """What may stand in a recipe beside its source: the verb's flags."""
    flags = [option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")]  # noqa: SLF001
    return tuple(flag for flag in flags if flag not in NOT_IN_RECIPES)
