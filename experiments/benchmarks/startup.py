"""How soon things begin: help, checking a folder, the first training step.

What: whole commands, each in a process of its own. `fluxseg --help` against an interpreter that
    does nothing; `fluxseg check` of 20 recordings against reading their files with `np.load`; from
    `python -m fluxseg.main` (default config, crops prepared before) to its first training step,
    with its compilation cache empty and full, against importing the libraries it is made of.
Command: python -m experiments.benchmarks.startup
Takes: 3 minutes; most of it is the compilation of each cold start.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks.measure import (
    Results,
    Variant,
    create_parser,
    print_json,
    print_table,
    run_interleaved,
    summarise,
    write_results,
)
from fluxseg.allocator import SWITCH

RECORDINGS = 20
NOTHING = "python -c pass"
HELP = "fluxseg --help"
LOAD = "np.load of the same files"
CHECK = "fluxseg check"
LIBRARIES = "import of the libraries"
COLD = "first step, compilation cache empty"
WARM = "first step, compilation cache full"
IMPORTS = "import jax, flax.linen, optax, grain, orbax.checkpoint"


def wait_for_first_step(cache: Path, home: Path) -> dict[str, float]:
    """Start the main job as its users do, and end it when its first step is done.

    Args:
        cache: folder of prepared crops.
        home: cache folder of the user, which holds the compiled programs.

    Returns:
        `seconds` since the command, and `step_seconds`, the share of the step with the
        compilation of its programs.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
    environment.pop(SWITCH, None)
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "fluxseg.main", "--workdir", workdir]
        command += ["--config.data.cache", str(cache)]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            found = re.match(r"First step done.* ([\d.]+) s$", line.strip())
            if found:
                seconds = time.perf_counter() - began
                process.kill()
                process.wait()
                return {"seconds": seconds, "step_seconds": float(found[1])}
    raise RuntimeError("the main job took no step:\n" + "".join(seen))


def load_all(folder: Path) -> None:
    """Read every recording of a folder once."""
    import numpy as np

    for path in sorted(folder.glob("*.npy")):
        np.load(path, allow_pickle=True).item()


def run_all(rounds: int, folder: Path) -> Results:
    """Run all variants in a folder that is thrown away."""
    recordings, cache, warm = folder / "recordings", folder / "cache", folder / "warm"
    fluxseg = (sys.executable, "-m", "fluxseg")
    simulate = ("simulate", str(recordings), "--simulator.containers", str(RECORDINGS // 2))
    subprocess.run([*fluxseg, *simulate], check=True, stdout=subprocess.DEVNULL)
    prepare = ("prepare", "simulator", "--output", str(cache))
    subprocess.run([*fluxseg, *prepare], check=True, stdout=subprocess.DEVNULL)
    wait_for_first_step(cache, warm)
    this = ("-m", "experiments.benchmarks.startup", "--folder")
    quick = (
        Variant(NOTHING, ("-c", "pass")),
        Variant(HELP, ("-m", "fluxseg", "--help")),
        Variant(LOAD, (*this, str(recordings), "--worker", "load")),
        Variant(CHECK, ("-m", "fluxseg", "check", str(recordings))),
        Variant(LIBRARIES, ("-c", IMPORTS)),
        Variant(WARM, (*this, str(folder), "--worker", "warm")),
    )
    cold = (Variant(COLD, (*this, str(folder), "--worker", "cold")),)
    results = run_interleaved(quick, rounds)
    # Compiling takes so long that two rounds must do.
    results |= run_interleaved(cold, min(rounds, 2))
    for name in (NOTHING, HELP, LOAD, CHECK, LIBRARIES):
        for figures in results[name]:
            figures["seconds"] = figures["wall_seconds"]
    return results


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "startup", 5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker == "load":
        load_all(arguments.folder)
    elif arguments.worker == "warm":
        print_json(wait_for_first_step(arguments.folder / "cache", arguments.folder / "warm"))
    elif arguments.worker == "cold":
        with tempfile.TemporaryDirectory() as home:
            print_json(wait_for_first_step(arguments.folder / "cache", Path(home)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = run_all(arguments.rounds, Path(folder))
        summary = {}
        for title, names in (
            ("Help", (NOTHING, HELP)),
            ("Check", (LOAD, CHECK)),
            ("First step", (LIBRARIES, WARM)),
        ):
            chosen = {name: results[name] for name in names}
            summary[title] = summarise(chosen, "seconds", names[0], larger_is_better=False)
            print_table(title, summary[title], "s")
        both = {name: results[name][: len(results[COLD])] for name in (COLD, WARM)}
        for figure in ("seconds", "step_seconds"):
            title = f"First step, cold and warm, {figure}"
            summary[title] = summarise(both, figure, COLD, larger_is_better=False)
            print_table(title, summary[title], "s")
        write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
