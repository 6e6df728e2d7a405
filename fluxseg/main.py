"""The main job: `python -m fluxseg.main --workdir DIR`."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from fluxseg.allocator import tune_allocator
from fluxseg.arguments import PickOptions, parse, split_config_file
from fluxseg.config import Config
from fluxseg.console import joined, progress_bars, run_guarded
from fluxseg.formats.pick import NO_PICK, pick_data
from fluxseg.processes import Processes, leave

logger = logging.getLogger("fluxseg.main")

DESCRIPTION = """Train a U-Net on recordings, score it honestly, and write a report.

Without any setting the recordings come from the embedded simulator; your own:
--config.data.source FOLDER. --config FILE.py starts from the settings of a config file (a Python
file with get_config(); it is executed), and every option below overrides it. Running the same
command again resumes an interrupted run. Several processes train together if each runs it (with
srun, or with --processes). Exit codes: 0 done; 2 bad input or settings; 130, 138 and 143 stopped
by Ctrl-C, SIGUSR1 or SIGTERM, with everything saved.
"""


@dataclasses.dataclass(frozen=True)
class MainArguments:
    """Arguments of the main job."""

    workdir: Path
    """Folder of the run; it is created, or resumed if it holds one."""
    config: Config
    """Settings of the run."""
    profile: bool = False
    """Trace some steps of the first epoch into WORKDIR/profile, for TensorBoard or Perfetto."""
    pick: PickOptions = NO_PICK
    processes: Processes = dataclasses.field(default_factory=Processes)
    """The processes of the job, if it has several."""


def parse_main(arguments: Sequence[str], prog: str) -> MainArguments:
    """Parse the arguments of the main job; `--help` explains every setting."""
    config, args = split_config_file(arguments)
    default = MainArguments(tyro.MISSING, config)
    read = parse(prog, MainArguments, args, description=DESCRIPTION, default=default)
    return dataclasses.replace(read, config=pick_data(read.config, read.pick))


def train(arguments: MainArguments) -> int:
    """Train on recordings, score, and write a report: the same as python -m fluxseg.main."""
    with joined(arguments.processes) as console:
        import jax

        from fluxseg.job import Callbacks, train_and_evaluate

        devices, count = jax.devices(), jax.process_count()
        several = f" in {count} processes" if count > 1 else ""
        logger.info("Devices: %d x %s%s", len(devices), devices[0].device_kind, several)
        bars = progress_bars(console, ("Preparing", "recordings"), ("Training", "steps"))
        with bars as (on_prepare, on_step):
            callbacks, profile = Callbacks(on_prepare, on_step), arguments.profile
            train_and_evaluate(arguments.config, arguments.workdir, callbacks, profile=profile)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_guarded(lambda: train(parse_main(arguments, "python -m fluxseg.main")))


if __name__ == "__main__":
    tune_allocator()
    leave(code := main())
    sys.exit(code)
