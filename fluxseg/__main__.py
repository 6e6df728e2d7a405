"""`python -m fluxseg` is the `fluxseg` command."""

import sys

from fluxseg.cli.app import launch

if __name__ == "__main__":
    sys.exit(launch())
