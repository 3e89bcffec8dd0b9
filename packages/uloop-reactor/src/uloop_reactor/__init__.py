"""An event loop for handlers, timers and connections, on the best call of the platform.

>>> from uloop_reactor import Uloop
>>> with Uloop() as loop:
...     _ = loop.call_later(0.01, loop.stop)
...     loop.run()

The library logs to ``uloop.reactor`` and configures no logging.
"""

import logging as _logging
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from uloop_events import UEvent

from .__about__ import __version__
from .factory import available_backends
from .handler import EventHandler, ProcessesEvents
from .health import Stats
from .timers import Clock, Timer
from .uloop import Uloop

if TYPE_CHECKING:
    from .connect import ConnectError, TcpConnector, UnixConnector
    from .datagram import DatagramSocket
    from .listener import Connection, Listener, TcpListener, UnixListener, inherited_sockets
    from .stream import State, Stream
    from .tls import TlsStream

_logging.getLogger("uloop").addHandler(_logging.NullHandler())

__all__ = [
    "Clock",
    "ConnectError",
    "Connection",
    "DatagramSocket",
    "EventHandler",
    "Listener",
    "ProcessesEvents",
    "State",
    "Stats",
    "Stream",
    "TcpConnector",
    "TcpListener",
    "Timer",
    "TlsStream",
    "UEvent",
    "Uloop",
    "UnixConnector",
    "UnixListener",
    "__version__",
    "available_backends",
    "inherited_sockets",
]

# What is imported when it is first asked for: the ssl module alone takes as long as all the rest.
_MODULE_OF = {
    "ConnectError": "connect",
    "Connection": "listener",
    "DatagramSocket": "datagram",
    "Listener": "listener",
    "State": "stream",
    "Stream": "stream",
    "TcpConnector": "connect",
    "TcpListener": "listener",
    "TlsStream": "tls",
    "UnixConnector": "connect",
    "UnixListener": "listener",
    "inherited_sockets": "listener",
}

if not TYPE_CHECKING:  # or a type checker would think that there is every name

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
