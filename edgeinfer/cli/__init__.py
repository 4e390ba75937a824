"""The command line: one file here is one verb, with `HELP`, `EXAMPLE`, `add_arguments(parser)`, `run(args) -> int`."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pkgutil
import re
import sys
import traceback
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from edgeinfer import naming
from edgeinfer.cli import _ending, _progress, _remedies, _tables
from edgeinfer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DESCRIPTION = "Export image models once, and run them fast and right on every edge device."
EPILOG = """\
a first walk:
  edgeinfer demo                        see it work, in a minute
  edgeinfer export yolov5s.pt           a checkpoint becomes a bundle: one folder for any device
  edgeinfer info engines/yolov5s        what is in it, and what would run here
  edgeinfer run engines/yolov5s *.jpg   run it on pictures, folders, videos, cameras

exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 measured but not valid
EDGEINFER_DEBUG=1 shows where an error came from
"""
INTERRUPTED = 130
PIPE_CLOSED = 141


class Parser(argparse.ArgumentParser):
    """Wrong usage is an error like any other."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


class Version(argparse.Action):
    """Looks the version up only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        import edgeinfer

        print(f"edgeinfer {edgeinfer.__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; gives its exit code and never raises."""
    _stand_in()
    with _ending.orderly() as ending:
        try:
            code = _dispatch(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            code = PIPE_CLOSED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - a user gets a line, not a traceback
            code = _report(error)
        _settle(sys.stdout)
        _settle(sys.stderr)
    return 128 + ending.asked if ending.asked and code == INTERRUPTED else code


def _stand_in() -> None:
    """A standard stream that is closed is nobody's: else the next file that is opened would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nobody = os.open(os.devnull, os.O_RDWR)
            if nobody != number:
                os.dup2(nobody, number)
                os.close(nobody)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - a descriptor, until the end


def _settle(stream: TextIO) -> None:
    """Where the reader has gone or the disk is full, drop what is buffered: Python would try it again at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@lru_cache(maxsize=1)
def verbs() -> tuple[str, ...]:
    """Every verb there is a file for."""
    return tuple(sorted(one.name for one in pkgutil.iter_modules(__path__) if not one.name.startswith("_")))


def _dispatch(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    _check_full(words)
    try:
        args, unknown = _parser().parse_known_args(words)
        if unknown:
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    args.words = words[words.index(args.verb) + 1 :]
    if not _debugging():
        # damaged files are reported in our own words
        os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    for_programs = getattr(args, "json", None) in ("-", True)
    if for_programs and sys.__stdout__ is None:  # _stand_in has put nobody in its place
        raise UsageError("--json writes to stdout, which is closed", hint="lead it to a file: > results.json")
    _encode_stdout(for_programs=for_programs)
    with _warnings():
        return int(args.run(args))


def _check_full(words: Sequence[str]) -> None:
    """UsageError for an empty word: as a path it would be the working directory, and many options not be there."""
    for before, word in zip(["edgeinfer", *words], words):
        if not word or re.fullmatch(r"--[a-z-]+=", word):
            which = word or f"the one after {naming.without_password(before)}"
            raise UsageError(f"an argument is empty: {which}", hint="a variable of the shell may not be set")


def _encode_stdout(*, for_programs: bool) -> None:
    """No file name stops the work, whatever the terminal can show; JSON is UTF-8, where no text stands escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8" if for_programs else None, errors="backslashreplace")


@contextmanager
def _warnings() -> Iterator[None]:
    """One `warning:` line for what edgeinfer logs while a verb runs."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _progress.warn(record.getMessage())

    logger, handler = logging.getLogger("edgeinfer"), Lines(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("edgeinfer", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw)
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    choices = parser.add_subparsers(metavar="VERB", dest="verb", required=True, title="verbs")
    for name in verbs():
        module = importlib.import_module(f"edgeinfer.cli.{name}")
        description = f"{module.HELP[:1].upper()}{module.HELP[1:]}."
        verb = choices.add_parser(
            name, help=module.HELP, description=description, epilog=_epilog(module), formatter_class=raw
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run, parser=verb)
    return parser


def _epilog(module: Any) -> str:
    examples = "".join(f"  {line}\n" for line in module.EXAMPLE.splitlines())
    return f"{'examples' if examples.count(chr(10)) > 1 else 'example'}:\n{examples}"


def _report(error: Exception) -> int:
    """One `error:` line, one `hint:` line; gives the exit code."""
    if _debugging():
        traceback.print_exc()
    message, hint = _remedies.words(error)
    with suppress(OSError):  # where nobody can be told, the exit code tells
        _progress.clear()
        print(f"error: {_tables.line(message)}", file=sys.stderr)
        if hint:
            print(f"hint: {_tables.line(hint)}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


def _debugging() -> bool:
    return os.environ.get("EDGEINFER_DEBUG", "").lower() in {"1", "true", "yes", "on"}
