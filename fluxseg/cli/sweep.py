"""Verb that trains many runs."""

import dataclasses
from pathlib import Path

from fluxseg.arguments import read_config_file, read_sweep_file
from fluxseg.config import Config
from fluxseg.console import open_console


def sweep(
    output: Path,
    vary: tuple[str, ...] = (),
    file: Path | None = None,
    config: Path | None = None,
    random: int = 0,
    random_seed: int = 0,
) -> int:
    """Train runs with all combinations of settings, and show which did best.

    Each run has an ordinary workdir, OUTPUT/runs/NAME. The same command again skips finished
    runs and goes on with interrupted ones. Exit code 1 if a run has failed.

    Args:
        output: Folder of the sweep: sweep.csv, sweep.json, sweep.html and the runs.
        vary: Settings and their values, such as train.learning_rate=1e-3,2e-3 train.seed=0,1,2
        file: A Python file with get_sweep(), which returns a Sweep of
            fluxseg.training.sweep; it is executed. The other options override it.
        config: A config file, see fluxseg train; settings of all runs.
        random: Run so many of the combinations, drawn at random; 0: all.
        random_seed: Another seed draws others.
    """
    from rich.table import Table
    from rich.text import Text

    from fluxseg.job import train_and_evaluate
    from fluxseg.report.sweep import collect_table, write_table
    from fluxseg.training.lock import claim_workdir
    from fluxseg.training.sweep import Sweep, parse_vary, plan_sweep, run_sweep

    console = open_console()
    found = read_sweep_file(file) if file else Sweep(Config(), {})
    wanted = dataclasses.replace(
        found,
        base=read_config_file(config) if config else found.base,
        vary={**found.vary, **parse_vary(vary)},
        random=random or found.random,
        random_seed=random_seed or found.random_seed,
    )
    members = plan_sweep(wanted)
    with claim_workdir(output):
        failures = run_sweep(members, output, train_and_evaluate)
        table = collect_table(members, output, failures)
        page = write_table(table, output)
    shown = Table(title=f"Best by {table.monitor} first; test figures chose nothing")
    for title in (*table.settings, table.monitor, "test neuron IoU", "test F1", "state"):
        shown.add_column(Text(title), overflow="fold")
    for row in table.rows:
        scores = (row.monitored, row.test.get("neuron_iou"), row.test.get("object_f1"))
        figures = ["–" if value is None else f"{value:.4f}" for value in scores]
        settings = [str(row.settings[name]) for name in table.settings]
        state = "failed" if row.failure else "done"
        shown.add_row(*(Text(text) for text in (*settings, *figures, state)))
    console.print(shown)
    console.print(f"Report: {page}")
    return 1 if failures else 0
