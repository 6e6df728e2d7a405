"""`python -m tests.faults.stop_at_step WORKDIR STEP SIGNAL`: a run that is told to stop at a step.

The signal comes right after the call of the step; its message must name that step.
"""

import os
import sys
from pathlib import Path

from fluxseg.console import run_guarded
from fluxseg.training.progress import Callbacks
from tests.conftest import train_network
from tests.faults.jobs import SMALL


def main() -> int:
    workdir, at, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def on_step(step: int, _total: int) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    def run() -> None:
        train_network(SMALL, workdir, Callbacks(on_step=on_step))

    return run_guarded(run)


if __name__ == "__main__":
    sys.exit(main())
