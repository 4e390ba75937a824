"""`edgeinfer serve`: bundles behind the Open Inference Protocol, REST and gRPC, and a page for people."""

from __future__ import annotations

import ipaddress
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from edgeinfer import interruption
from edgeinfer.cli import _choosing, _log, _tables, _types
from edgeinfer.errors import BackendUnavailable, UsageError
from edgeinfer.serve.limits import MIB, Limits

if TYPE_CHECKING:
    import argparse

    from edgeinfer.serve.versions import Options

# of each flag: the field of Limits, what one of it is there, how it is read, called and told
BOUNDS: dict[str, tuple[str, float, Callable[[str], float], str, str]] = {
    "--max-batch": ("batch", 1, _types.count, "N", "rows of a batch at most"),
    "--delay-ms": ("delay", 1e-3, _types.above_zero, "MS", "how long a batch waits for others"),
    "--queue": ("queue", 1, _types.count, "N", "requests of a model that may wait"),
    "--timeout": ("timeout", 1, _types.above_zero, "S", "a request's time at most"),
    "--stuck": ("stuck", 1, _types.above_zero, "S", "how long a batch may run before health turns red"),
    "--slow": ("slow", 1, _types.above_zero, "S", "how long a sender may pause"),
    "--max-body-mb": ("body", MIB, _types.above_zero, "MIB", "a request's size at most"),
    "--max-memory-mb": ("memory", MIB, _types.above_zero, "MIB", "all requests together, gRPC's once complete"),
    "--max-values": ("values", 1, _types.count, "N", "values that are not binary data at most"),
    "--max-pixels": ("pixels", 1, _types.count, "N", "a picture's pixels at most"),
    "--connections": ("connections", 1, _types.count, "N", "connections at most"),
}
HELP = "serve bundles over HTTP and gRPC, with a page for people"
EXAMPLE = """\
edgeinfer serve engines/yolov5s
edgeinfer serve engines/yolov5s --camera door=rtsp://10.0.0.5/door --camera yard=camera:0
edgeinfer serve engines/yolov5s --classify engines/resnet50
edgeinfer serve engines/ --host 0.0.0.0 --token-file token.txt --tls-cert cert.pem --tls-key key.pem
curl --data-binary @street.jpg http://127.0.0.1:8000/v1/models/yolov5s/predict"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", nargs="+", type=Path, help="bundles, or folders of bundles")
    for add in (_add_listening, _add_guarding, _add_running, _add_watching, _add_bounds):
        add(parser)
    parser.add_argument("--log-json", action="store_true", help="log lines as JSON objects")


def _add_listening(parser: argparse.ArgumentParser) -> None:
    listening = parser.add_argument_group("where it listens")
    listening.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1, this machine only)")
    listening.add_argument(
        "--port", type=_port, default=8000, metavar="N", help="for HTTP (default: 8000; 0: a free one)"
    )
    listening.add_argument("--grpc-port", type=_port, default=8001, metavar="N", help="for gRPC (default: 8001)")
    listening.add_argument("--no-grpc", action="store_true", help="HTTP only")


def _add_guarding(parser: argparse.ArgumentParser) -> None:
    guarding = parser.add_argument_group("who may come in")
    guarding.add_argument("--token-file", type=Path, metavar="FILE", help="requests must carry this bearer token")
    guarding.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve over TLS with this certificate (PEM)")
    guarding.add_argument("--tls-key", type=Path, metavar="FILE", help="and its key")
    guarding.add_argument("--manage", action="store_true", help="let requests load, unload and roll back models")
    guarding.add_argument(
        "--shared-memory",
        action="store_true",
        help="let clients on this machine pass tensors in shared memory; all that this user may open is open to them",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    running = parser.add_argument_group("how models run")
    _choosing.add_way(running)
    running.add_argument(
        "--contexts",
        type=_types.count,
        default=1,
        metavar="N",
        help="batches at the same time, if the plan has no more (default: 1); many clients of a CPU get the most from "
        "as many as it has cores, --threads 1",
    )
    running.add_argument(
        "--classify", type=Path, metavar="BUNDLE", help="detectors: run this classifier on what is in each box"
    )
    _choosing.add_thresholds(running)
    running.add_argument(
        "--watch",
        type=_types.above_zero,
        default=0,
        metavar="S",
        help="look so often for new versions, for bundles put into a folder of bundles, and for those taken from it",
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    watching = parser.add_argument_group("cameras")
    watching.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NAME[@MODEL]=SOURCE",
        help="follow camera:N, rtsp://..., http://... or gst:PIPELINE; may be given several times",
    )
    watching.add_argument(
        "--camera-file",
        type=Path,
        metavar="FILE",
        help="the same, one a line: keeps passwords out of the list of processes",
    )
    watching.add_argument(
        "--max-age", type=_types.milliseconds, metavar="MS", help="older results are not the present (default: 1500ms)"
    )
    watching.add_argument("--viewers", type=_types.count, metavar="N", help="who may watch at once (default: 16)")


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    bounds = parser.add_argument_group("limits")
    for flag, (field, unit, kind, word, told) in BOUNDS.items():
        default = getattr(Limits, field) / unit
        shown = f"{default:.10g}" if default else "not at all"
        bounds.add_argument(flag, type=kind, metavar=word, help=f"{told} (default: {shown})")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise UsageError(f"port {text!r} is not a number from 0 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> int:
    try:
        import asyncio

        from edgeinfer.serve import running
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(
            f"serving needs {missing.name}, which is not installed", hint='pip install "edgeinfer[serve]"'
        ) from missing
    from edgeinfer.serve.cameras import Mount

    ports = running.Ports(args.host, args.port, -1 if args.no_grpc else args.grpc_port)
    guard = running.Guard(_token(args.token_file), args.tls_cert, args.tls_key, args.manage, args.shared_memory)
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    if args.shared_memory and not guard.token and not _loopback(args.host):
        raise UsageError(
            f"--shared-memory with --host {args.host} would let whoever reaches it write into this machine's memory",
            hint="add --token-file FILE",
        )
    mounts = [Mount.parse(text) for text in [*args.camera, *_cameras(args.camera_file)]]

    async def serve() -> None:
        how = {"mounts": mounts, "watch_s": args.watch, "told": _told}
        service = running.Running(args.bundle, _options(args), _bounds(args), ports, guard, **how)
        await service.run(lambda: stop.asked)

    # until the service hears signals itself: no exception may come while asyncio makes its loop
    with _log.written(as_json=args.log_json), interruption.noticed(patient=True) as stop:
        asyncio.run(serve())
    return 0


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told(line: str) -> None:
    """A line on stdout; that its disk is full, or its reader gone, is no reason to end."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"{_tables.line(line)}\n".encode(sys.stdout.encoding, "backslashreplace"))


def _options(args: argparse.Namespace) -> Options:
    from edgeinfer.serve.versions import Options

    classify = args.classify.absolute() if args.classify else None
    names = ("backend", "precision", "device", "threads", "contexts", "conf", "iou")
    return Options(**{name: getattr(args, name) for name in names}, classify=classify)


def _bounds(args: argparse.Namespace) -> Limits:
    asked = {field: (getattr(args, flag[2:].replace("-", "_")), unit) for flag, (field, unit, *_) in BOUNDS.items()}
    asked |= {"age": (args.max_age, 1e-3), "viewers": (args.viewers, 1)}
    # of the type that the default has
    given = {field: type(getattr(Limits, field))(value * unit) for field, (value, unit) in asked.items() if value}
    return Limits(**given)


def _cameras(file: Path | None) -> list[str]:
    """The lines of the file that name cameras; empty ones and comments (#) are passed over."""
    lines = _types.text("--camera-file", file, "NAME[@MODEL]=SOURCE a line").splitlines() if file else []
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _token(file: Path | None) -> str:
    if file is None:
        return ""
    token = _types.text("--token-file", file, "one line with the token").strip()
    if not token or not token.isascii() or any(letter.isspace() for letter in token):
        raise UsageError(f"--token-file {file} holds no token", hint="one line of ASCII letters without spaces")
    return token
