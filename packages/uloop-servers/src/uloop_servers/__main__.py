"""``python -m uloop_servers`` is ``uloop-servers``."""

import sys

from .cli import main

sys.exit(main())
