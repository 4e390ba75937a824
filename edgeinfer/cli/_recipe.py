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
    if not args.source.lower().endswith(SUFFIX):
        args.recipe = None
        return args
    recipe = _exporter.part("recipes").read(args.source, keys(args.parser), switches(args.parser))
    try:
        both: argparse.Namespace = args.parser.parse_args([*recipe.words, "--", recipe.source])
    except UsageError as error:
        raise UsageError(f"{recipe.name}: {error}", hint=error.hint) from error
    args.parser.parse_args(args.words, both)  # leaves what is there where nothing was typed
    both.source, both.recipe = recipe.source, recipe
    return both


def keys(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """What may stand in a recipe beside its source: the verb's flags."""
    return tuple(flag for flag in _flags(parser) if flag not in NOT_IN_RECIPES)


def switches(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """The flags that take no value: true or false in a recipe."""
    return tuple(flag for flag, action in _flags(parser).items() if action.nargs == 0)


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    actions = parser._actions  # noqa: SLF001
    return {word[2:]: action for action in actions for word in action.option_strings if word.startswith("--")}
