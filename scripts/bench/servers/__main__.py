"""``python scripts/bench/servers``"""

import sys
from pathlib import Path

# Run as a directory, Python looks for modules in it, not for the package that it is.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from servers.command import main  # noqa: E402

sys.exit(main())
