"""UDP and TCP time servers: run ``uloop-servers serve``, or serve on a loop of your own.

>>> from uloop_reactor import Uloop
>>> from uloop_servers import open_server
>>> with Uloop() as loop:
...     server = open_server(loop, "udp://127.0.0.1:0")
...     _ = loop.call_later(0.01, loop.stop)
...     loop.run()
...     server.close()
"""

from .__about__ import __version__
from .config import Settings
from .endpoint import Endpoint
from .service import Service, open_server

__all__ = ["Endpoint", "Service", "Settings", "__version__", "open_server"]
