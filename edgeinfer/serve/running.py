"""The service as a process: sockets, signals, health checks, systemd; from the start to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import uvicorn

from edgeinfer.errors import ServiceError, UsageError
from edgeinfer.serve import notify, web
from edgeinfer.serve.connections import BEYOND, ListeningSocket, handle_exception, protocol
from edgeinfer.serve.heap import Heap
from edgeinfer.serve.metrics import Metrics
from edgeinfer.serve.refusals import Refusal
from edgeinfer.serve.repository import Repository
from edgeinfer.serve.service import Service
from edgeinfer.serve.versions import cause

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from edgeinfer.serve.cameras import Mount
    from edgeinfer.serve.limits import Limits
    from edgeinfer.serve.repository import Found
    from edgeinfer.serve.rpc import Started
    from edgeinfer.serve.versions import Options

LOG = logging.getLogger("edgeinfer.serve")
DECODERS = 4  # threads that decode pictures
TLS_HINT = "--tls-cert takes a PEM file, --tls-key its key, without a passphrase"
CHECK_S = 0.5  # how often health is looked at


class Ports(NamedTuple):
    """Where the service listens; `grpc` -1: not at all; port 0 takes a free one."""

    host: str = "127.0.0.1"
    http: int = 8000
    grpc: int = 8001


class Guard(NamedTuple):
    """Who may come in: the token, the TLS files (both or none); and whether they may load models and share memory."""

    token: str = ""
    certificate: Path | None = None
    key: Path | None = None
    managed: bool = False
    shared: bool = False

    @property
    def files(self) -> tuple[Path, Path] | None:
        """The TLS files, if there are both."""
        return (self.certificate, self.key) if self.certificate and self.key else None


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own, which hangs up on who does not come to the end of a TLS handshake."""

    def __init__(self, config: uvicorn.Config, slow: float) -> None:
        super().__init__(config)
        self._handshake = slow if config.is_ssl else None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        for listening in sockets or []:
            self.servers.append(
                await asyncio.get_running_loop().create_server(
                    self._connection,
                    sock=listening,
                    ssl=self.config.ssl,
                    backlog=self.config.backlog,
                    ssl_handshake_timeout=self._handshake,
                )
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.http_protocol_class.over = True  # type: ignore[attr-defined]
        for listening in self.servers:
            listening.close()
        # from Python 3.12 on uvicorn would wait with them for who is still in a handshake
        self.servers.clear()
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class Running:
    """A service between its start and its end; `told` gets one line when it is ready."""

    def __init__(
        self,
        paths: Sequence[Path],
        options: Options,
        limits: Limits,
        ports: Ports,
        guard: Guard,
        *,
        mounts: Sequence[Mount] = (),
        watch_s: float = 0,
        told: Callable[[str], None] = print,
    ) -> None:
        self._paths, self._limits, self._ports, self._guard = paths, limits, ports, guard
        self._watch_s, self._told = watch_s, told
        self._heap = Heap()  # before models and gRPC begin their threads
        # models may come later; a folder that is not there is more likely a slip of the pen
        self._patient = bool(watch_s or guard.managed) and all(path.is_dir() for path in paths)
        self._repository, self._classify = Repository(paths, options, limits), options.classify
        self._threads = _decoders()
        self.service = Service(
            self._repository,
            limits,
            Metrics(self._repository),
            self._threads,
            mounts=mounts,
            managed=guard.managed,
            shared=guard.shared,
        )
        self._stop = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, asked: Callable[[], bool] = lambda: False) -> None:
        """Serve until SIGTERM or SIGINT, or not at all where one was `asked` for before.

        Raises ServiceError, UsageError.
        """
        try:
            # before anything starts: an exception in the middle of gRPC's own start ends the process
            self._handle_signals()
            if not asked():
                await self._serve()
        finally:
            self._threads.shutdown(wait=False)

    async def _serve(self) -> None:
        _check_tls(self._guard)
        asyncio.get_running_loop().set_exception_handler(handle_exception)
        listening = _listen(self._ports.host, self._ports.http, self._limits.connections + BEYOND)
        server = self._http()
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        rpc = None
        try:
            rpc = await self._grpc()
            loading, stopped = asyncio.ensure_future(self._load()), asyncio.ensure_future(self._stop.wait())
            await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            if stopped.done():
                loading.cancel()
            else:
                self.service.start_cameras()
                self._announce(listening, rpc)
                for task in (self._keep_well, self._beat, self._watch):
                    self._begin(task())
            await asyncio.wait((stopped, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end(server, serving, rpc)
            listening.close()

    def _http(self) -> _Server:
        application = web.app(self.service, token=self._guard.token)
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            h11_max_incomplete_event_size=self._limits.head,
            http=protocol(self._limits),
            ws="none",
            # else variables that are meant for other services are heeded
            workers=1,
            proxy_headers=False,
            timeout_keep_alive=max(1, int(self._limits.slow)),
            timeout_graceful_shutdown=int(self._limits.drain),
            ssl_certfile=self._guard.certificate,
            ssl_keyfile=self._guard.key,
        )
        return _Server(config, self._limits.slow)

    async def _grpc(self) -> Started | None:
        if self._ports.grpc < 0:
            return None
        from edgeinfer.serve import rpc

        if self._ports.grpc:
            # gRPC's core tells of a port that is taken in lines of its own, or takes what is left of several addresses
            _listen(self._ports.host, self._ports.grpc, flag="--grpc-port").close()
        return await rpc.start(
            self.service,
            self._ports.host,
            self._ports.grpc,
            tls=self._guard.files,
            token=self._guard.token,
        )

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload()))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Have this go on until its end, or that of the service."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _load(self) -> None:
        """Open every model; what is refused is told and left out.

        Something must be served, unless it is to end, or models may come later.
        """
        reasons = [f"{folder} holds no bundle" for folder in self._repository.empty]
        remedies: set[str] = set()
        for reason in reasons:
            LOG.warning("%s", reason)
        for name in list(self._repository.models):
            if self._stop.is_set():
                return
            try:
                await self._repository.load(name)
            except Refusal as error:
                reasons.append(str(error))
                remedies.add(getattr(error.__cause__, "hint", ""))
        served = [found.version for found in self._repository.served()]
        if self._classify and served and not reasons and not any(version.inspects for version in served):
            raise UsageError("--classify says more of boxes, and none of these models finds any")
        if not served and not self._patient:
            hint = remedies.pop() if len(remedies) == 1 else ""
            raise ServiceError(
                f"no model can be served: {'; '.join(reasons)}", hint=hint or "edgeinfer verify says more"
            )
        self.service.ready = True

    def _announce(self, listening: socket.socket, rpc: Started | None) -> None:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        also = f", gRPC on {shown}:{rpc.port}" if rpc else ""
        names = ", ".join(dict.fromkeys(found.model.name for found in self._repository.served()))
        what = names or f"nothing yet, {self._awaited()}"
        self._told(f"serving {what} on {'https' if self._guard.files else 'http'}://{shown}:{port}{also}")
        notify.say("READY=1")

    def _awaited(self) -> str:
        folders = ", ".join(map(str, self._paths))
        return f"watching {folders}" if self._watch_s else f"loading from {folders} what requests ask for"

    async def _reload(self) -> None:
        started = self.service.ready  # else the end of the start is what there is to say
        if started:
            notify.say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        await self._look()
        if started:
            notify.say("READY=1")

    async def _watch(self) -> None:
        """Look at the folders now and then."""
        while self._watch_s:
            await asyncio.sleep(self._watch_s)
            await self._look()

    async def _look(self) -> None:
        """Do as the folders have it; what goes wrong there is told, and leaves what is served as it is."""
        try:
            await self._repository.reload()
        except Refusal as error:
            LOG.error("the folders cannot be looked at: %s", error)  # noqa: TRY400
        except Exception:
            LOG.exception("the folders cannot be looked at")

    async def _keep_well(self) -> None:
        """Test again what is suspect; give back memory that nothing asks for any more."""
        while True:
            for found in self._repository.served():
                if found.version.station.suspect:
                    await self._test(found)
            self.service.cameras.note()
            self._heap.look(self.service.memory.uses)
            await asyncio.sleep(CHECK_S)

    async def _test(self, found: Found) -> None:
        version = found.version
        version.station.suspect = False
        try:
            await self._repository.threads.run(version.test)
        except Refusal:  # there is no thread for it now
            version.station.suspect = True
        except Exception as error:  # noqa: BLE001 - the log is told
            if version not in (found.model.current, found.model.previous):  # it was closed meanwhile
                return
            version.fault = cause(error)
            told = "%s: version %d fails its self-test: %s"
            LOG.error(told, found.model.name, version.number, version.fault)  # noqa: TRY400
        else:
            LOG.warning("%s: version %d was suspect and passes its self-test", found.model.name, version.number)

    async def _beat(self) -> None:
        """Tell systemd's watchdog that all is well while it is."""
        due = notify.watchdog_s()
        while due:
            if self.service.live():
                notify.say("WATCHDOG=1")
            await asyncio.sleep(min(CHECK_S, due))

    async def _end(self, server: _Server, serving: asyncio.Future[None], rpc: Started | None) -> None:
        """Take nothing more, finish what is under way, close everything."""
        notify.say("STOPPING=1")
        self.service.ready = False
        for task in self._background:
            task.cancel()
        server.should_exit = True
        await self.service.cameras.close(self.service.off_loop)
        if rpc:
            await rpc.stop(self._limits.drain)
        await asyncio.wait((serving,), timeout=self._limits.drain)
        for port in server.servers:  # some releases of uvicorn leave them open if the end came during its start
            port.close()
        await self._repository.close()


def _decoders() -> ThreadPoolExecutor:
    """Threads that decode pictures, all begun now: where none are to be had later, requests would fail."""
    threads, together = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode"), threading.Barrier(DECODERS)
    try:
        for _ in range(DECODERS):
            threads.submit(together.wait)
    except RuntimeError:
        together.abort()
        threads.shutdown(wait=False)
        raise
    return threads


def _listen(host: str, port: int, most: int = 1, flag: str = "--port") -> socket.socket:
    """A socket that listens at the address, for so many connections at the same time.

    ServiceError if the address is taken or not ours; the `flag` chooses another.
    """
    listening = None
    try:
        # the address has the interface in it that a link-local one names
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = ListeningSocket(family, most)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, UnicodeError) as error:
        if listening:
            listening.close()
        number, reason = getattr(error, "errno", 0), getattr(error, "strerror", None) or str(error)
        other = flag if number in (errno.EADDRINUSE, errno.EACCES) else "--host, an address of this machine"
        raise ServiceError(f"cannot listen on {host}:{port}: {reason}", hint=f"choose another with {other}") from error
    return listening


def _check_tls(guard: Guard) -> None:
    """UsageError for a certificate and key that cannot be used."""
    if not guard.files:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        for file in guard.files:
            file.read_bytes()  # of a file that is not there ssl does not say which
        # a key with a passphrase is refused: nobody is there who could be asked
        context.load_cert_chain(*guard.files, password="")
    except ssl.SSLError as error:
        told = f"{guard.certificate} cannot be used with the key {guard.key}: {error}"
        raise UsageError(told, hint=TLS_HINT) from error
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be used: {error.strerror}", hint=TLS_HINT) from error
