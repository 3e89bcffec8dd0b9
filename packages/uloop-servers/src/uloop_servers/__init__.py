"""UDP and TCP time servers: run ``uloop-servers serve``, or serve on a loop of your own.

>>> from uloop_reactor import Uloop
>>> from uloop_servers import open_server
>>> with Uloop() as loop:
...     server = open_server(loop, "udp://127.0.0.1:0")
...     _ = loop.call_later(0.01, loop.stop)
...     loop.run()
...     server.close()
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from .config import Settings
    from .endpoint import Endpoint
    from .service import Service, open_server

__all__ = ["Endpoint", "Service", "Settings", "__version__", "open_server"]

# What is imported when it is first asked for: `uloop-servers ask` has no use for a server.
_MODULE_OF = {
    "Endpoint": "endpoint",
    "Service": "service",
    "Settings": "config",
    "open_server": "service",
}

if not TYPE_CHECKING:  # or a type checker would think that there is every name

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(_import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
