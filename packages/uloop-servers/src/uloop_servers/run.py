"""What ``uloop-servers serve`` does: bind, become nobody, serve, and obey signals.

The order matters. Sockets come first, since low ports are root's, and the port that another
program has is the mistake most often made. Then root is dropped, before anything is read from a
stranger. What serves is a :class:`Service` in this process, or with several workers a
:class:`Supervisor` with a service in each of them; for signals, systemd and the metrics there is no
difference.

SIGTERM and SIGINT drain and end with 0; a second one, a second or more later, ends at once with 1.
What comes earlier does not count: a terminal's Ctrl-C reaches all processes of a group, and some
pass it on. SIGHUP reads the configuration again, unless the end has begun.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Protocol

from uloop_reactor import Uloop, inherited_sockets

from . import kernel_clock, logs, privileges, systemd
from .config import ConfigError, Settings, renew
from .counters import Ledger
from .endpoint import Bound, Endpoint
from .service import Service, descriptors, most_connections, own_reference

__all__ = ["READY", "obey_signals", "serve"]

log = logging.getLogger("uloop.servers")

#: what is logged once for each endpoint when it is bound, with the endpoint as the argument
READY = "serving %s"
IMPATIENCE = 1.0  # seconds after which a second signal is meant as one

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    STOP_SIGNALS.append(signal.SIGBREAK)


class Body(Protocol):
    """What serves: a ``Service``, or a ``Supervisor`` of several."""

    def reconfigure(self, settings: Settings, /) -> None: ...
    def drain(self, done: Callable[[], object], /) -> None: ...
    def close(self) -> None: ...
    @property
    def schemes(self) -> Collection[str]: ...
    @property
    def restarts(self) -> int: ...
    def problems(self) -> list[str]: ...
    def unready(self) -> list[str]: ...


class StartError(Exception):
    """Something that was asked for cannot be had; says what and why."""


def serve(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Serve until a signal ends it.

    Parameters:
        settings: what to serve, and how.
        reload: reads the settings again, for SIGHUP; raises ConfigError if they are bad.

    Returns:
        The exit code.
    """
    with ExitStack() as cleanup:
        try:
            _look_up_whom_to_follow(settings)
            sets, inherited = _bind_all(settings, cleanup)
            admin_socket = _bind_for_metrics(settings, cleanup)
            _import_what_it_takes(settings)
            if settings.user is not None:
                privileges.drop(settings.user)
            loop = cleanup.enter_context(Uloop(settings.backend))
            return _run(loop, settings, reload, sets, inherited, admin_socket)
        except StartError as error:
            log.error("%s", error)
        except (OSError, ValueError) as error:
            log.error("cannot start: %s", getattr(error, "strerror", None) or error)
        return 1


def _run(
    loop: Uloop,
    settings: Settings,
    reload: Callable[[], Settings],
    sets: list[Bound],
    inherited: bool,
    admin_socket: socket.socket | None,
) -> int:
    ledger = Ledger(settings.workers)
    notifier = systemd.Notifier()
    codes = [0]  # the last one counts

    def ready() -> None:
        for endpoint, _ in sets[0]:
            log.info(READY, endpoint)
        if admin_socket is not None:
            host, port = admin_socket.getsockname()[:2]
            log.info("metrics at %s/metrics", Endpoint("http", host, port))
        warn_of_the_clock(settings, body.schemes)
        warn_of_few_descriptors(settings, loop.backend, len(sets[0]))
        notifier.ready()
        interval = systemd.watchdog_interval()
        if interval is not None:
            loop.call_every(interval / 2, keep_watch)

    def keep_watch() -> None:
        if not body.problems():
            notifier.watchdog()

    def drain() -> None:
        reloader.ending = True
        notifier.stopping()
        body.drain(loop.stop)

    def give_up(code: int) -> None:
        codes.append(code)
        body.close()
        loop.stop()

    body: Body
    if settings.workers == 1:
        body = Service(loop, settings, sets[0], ledger.rows[0], shared=inherited)
        loop.call_soon(ready)
    else:
        from .workers import Supervisor

        body = Supervisor(
            loop, settings, sets, ledger, ready=ready, failed=lambda: give_up(1), shared=inherited
        )
    if admin_socket is not None:
        from .admin import Admin

        Admin(loop, admin_socket, ledger, body)
    reloader = Reloader(body, settings, reload, notifier)
    obey_signals(loop, drain, lambda: give_up(1))
    if sys.platform != "win32":
        loop.on_signal(signal.SIGHUP, reloader)
    try:
        loop.run()
    finally:
        body.close()
        # From here on we end anyway. A Ctrl-C may be passed on by others and come again, and
        # Python takes down its own handlers before it exits.
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
    return codes[-1]


def warn_of_the_clock(settings: Settings, schemes: Collection[str]) -> None:
    """Say why NTP clients will not use what they are told, if so."""
    if "ntp" not in schemes or settings.follow is not None:
        return
    if not own_reference(settings).quality(time.time_ns()).synchronised:
        known = kernel_clock.read() is not None
        log.warning(
            "%s, so NTP clients are told not to rely on it; have a time daemon set the clock, and name it "
            "with --follow, or say --trust-local-clock",
            "nobody keeps this clock right" if known else "this system does not tell how good its clock is",
        )


def warn_of_few_descriptors(settings: Settings, backend: str, endpoints: int) -> None:
    """Say that there cannot be as many connections as were asked for, if so."""
    wanted, most = settings.max_connections, most_connections(settings, backend, endpoints)
    if wanted is not None and wanted > most:
        log.warning(
            "--max-connections %d is more than the %d for which there are descriptors (%d in all)",
            wanted,
            most,
            descriptors(backend),
        )


def obey_signals(loop: Uloop, drain: Callable[[], object], give_up: Callable[[], object]) -> None:
    """Have the first signal to stop call ``drain``, and one a second later ``give_up``."""
    first: list[float] = []

    def stop() -> None:
        now = loop.time()
        if not first:
            first.append(now)
            drain()
        elif now - first[0] >= IMPATIENCE:
            give_up()

    # SIGINT in so many words, because a shell starts background jobs with it ignored.
    for signum in STOP_SIGNALS:
        loop.on_signal(signum, stop)


class Reloader:
    """What SIGHUP does: other limits, lists and logs, if the configuration is good.

    Attributes:
        ending: nothing is read any more; systemd has been told that we end, and ``READY=1`` would
            take that back.
    """

    def __init__(
        self, body: Body, settings: Settings, reload: Callable[[], Settings], notifier: systemd.Notifier
    ) -> None:
        self._body = body
        self._settings = settings
        self._reload = reload
        self._notifier = notifier
        self.ending = False

    def __call__(self) -> None:
        if self.ending:
            log.warning("the configuration is not read again: the service is ending")
            return
        self._notifier.reloading()
        try:
            renewed, restart = renew(self._settings, self._reload())
        except ConfigError as error:
            log.error("the old settings stay: %s", error)
        else:
            self._settings = renewed
            logs.configure(renewed.log_format, renewed.log_level)
            self._body.reconfigure(renewed)
            log.info("the configuration was read again")
            if restart:
                log.warning("a restart is needed for the new %s", ", ".join(restart))
        self._notifier.ready()


# What a start can fail at


def _import_what_it_takes(settings: Settings) -> None:
    """While we are root still: nobody else may be able to read the files."""
    if settings.workers > 1:
        from . import workers  # noqa: F401
    if settings.metrics is not None:
        from . import admin  # noqa: F401


def _look_up_whom_to_follow(settings: Settings) -> None:
    """Here, once, and not in each worker."""
    if settings.follow is None:
        return
    host, port = settings.follow
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "this is no host name"
        raise StartError(f"cannot follow {host}: {reason}") from error


def _bind_all(settings: Settings, cleanup: ExitStack) -> tuple[list[Bound], bool]:
    """A set of sockets for each worker, and whether there are inherited ones, which are in all of them."""
    inherited = inherited_sockets()
    for _, sock in inherited:
        cleanup.callback(sock.close)
    explicit = "endpoints" in settings.given
    bound, wanted = systemd.match_inherited(inherited, settings.endpoints, explicit)
    sets = [list(bound) for _ in range(settings.workers)]
    for endpoint in wanted:
        if settings.workers > 1:
            # A shared port lets in everybody who asks to share it: a second service like this one, or
            # the same endpoint once more. So it is had alone for a moment first, which nobody can
            # while somebody else has it. This also finds the port of all, if it was 0.
            sock, endpoint = _bind(endpoint, share=False)
            sock.close()
        for one in sets:
            sock, endpoint = _bind(endpoint, share=settings.workers > 1)
            cleanup.callback(sock.close)
            one.append((endpoint, sock))
    return sets, bool(inherited)


def _bind(endpoint: Endpoint, *, share: bool) -> tuple[socket.socket, Endpoint]:
    try:
        return endpoint.bind(share=share)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"cannot serve {endpoint}: {reason}") from error


def _bind_for_metrics(settings: Settings, cleanup: ExitStack) -> socket.socket | None:
    if settings.metrics is None:
        return None
    host, port = settings.metrics
    try:
        sock, _ = Endpoint("tcp", host, port).bind()
    except OSError as error:
        shown = str(Endpoint("tcp", host, port)).removeprefix("tcp://")
        raise StartError(f"cannot serve metrics at {shown}: {error.strerror or error}") from error
    cleanup.callback(sock.close)
    return sock
