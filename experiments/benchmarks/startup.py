"""How long people wait: help, the first picture, the first training step.

What: whole commands, each in a process of its own.
    help: `fluxseg --help` against an interpreter that does nothing.
    predict: `fluxseg predict` of one field of 512 x 512 px, its compilation cache empty (a fresh
    install) and full; the first lines of a notebook, `fluxseg.load_model().segment(image)`, with it
    full; one more field in that process.
    train: from `python -m fluxseg.main` (default config, crops prepared before) to its first
    training step, with its compilation cache empty and full, against importing its libraries.
Command: python -m experiments.benchmarks.startup [--parts predict train]
Takes: 4 minutes; most of it is the compilation of each cold start.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.benchmarks import measure
from experiments.benchmarks.measure import Results, Variant, run_interleaved
from fluxseg.allocator import SWITCH

NOTHING = "python -c pass"
HELP = "fluxseg --help"
LIBRARIES = "import of the libraries"
COLD = "first step, compilation cache empty"
WARM = "first step, compilation cache full"
IMPORTS = "import jax, flax.linen, optax, grain, orbax.checkpoint"
PREDICT_COLD = "fluxseg predict ONE.tif, compilation cache empty"
PREDICT = "fluxseg predict ONE.tif, compilation cache full"
NOTEBOOK = "load_model().segment(image), compilation cache full"
MORE = "one more field"
FLUXSEG = (sys.executable, "-m", "fluxseg")
FIELD = "fluxseg.simulate_recording(fluxseg.SimulatorConfig(size=512), 0).image"
# With the memory settings of a command of its own, which `run_variant` switches off.
LAUNCH = f"import os; os.environ.pop({SWITCH!r}); from fluxseg.cli.app import launch; launch()"
SEGMENT = """
import json, sys, time, tifffile
image = tifffile.imread(sys.argv[1])
import fluxseg
model = fluxseg.load_model()
model.segment(image)
began = time.perf_counter(), time.process_time()
model.segment(image)
figures = {"more": time.perf_counter() - began[0], "more_cpu": time.process_time() - began[1]}
print(json.dumps(figures))
"""


def wait_for_first_step(cache: Path, home: Path) -> dict[str, float]:
    """Start the main job as its users do, and end it when its first step is done.

    Args:
        cache: folder of prepared crops.
        home: cache folder of the user, which holds the compiled programs.

    Returns:
        `seconds` since the command, and `step_seconds` of the step and its compilation.
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


def time_predictions(rounds: int, folder: Path) -> Results:
    """Run `fluxseg predict` of one field, and a notebook's first lines, cold and warm."""
    field = folder / "field.tif"
    simulate = "import sys, fluxseg, tifffile; tifffile.imwrite(sys.argv[1], " + FIELD + ")"
    subprocess.run([sys.executable, "-c", simulate, str(field)], check=True)
    options = ("predict", str(field), "--overwrite", "--output", str(folder / "found"))
    warm = {"XDG_CACHE_HOME": str(folder / "warm")}
    cold = (
        f"import os, tempfile; os.environ['XDG_CACHE_HOME'] = tempfile.mkdtemp(dir={str(folder)!r})"
    )
    variants = (
        Variant(PREDICT, ("-c", LAUNCH, *options), warm),
        Variant(NOTEBOOK, ("-c", SEGMENT, str(field)), warm),
    )
    run_interleaved(variants[:1], 1)
    results = run_interleaved(variants, rounds)
    first = Variant(PREDICT_COLD, ("-c", f"{cold}; {LAUNCH}", *options))
    results |= run_interleaved((first,), min(rounds, 2))
    more = [
        {"wall_seconds": figures.pop("more"), "cpu_seconds": figures.pop("more_cpu")}
        for figures in results[NOTEBOOK]
    ]
    for figures, apart in zip(results[NOTEBOOK], more, strict=True):
        for name, seconds in apart.items():
            figures[name] -= seconds
    return results | {MORE: more}


def time_first_steps(rounds: int, folder: Path) -> Results:
    """Run the main job to its first step, cold and warm."""
    prepare = ("prepare", "simulator", "--output", str(folder / "cache"))
    subprocess.run([*FLUXSEG, *prepare], check=True, stdout=subprocess.DEVNULL)
    wait_for_first_step(folder / "cache", folder / "warm")
    warm, cold = (
        measure.make_worker(name, "startup", worker, folder=folder)
        for name, worker in ((WARM, "warm"), (COLD, "cold"))
    )
    results = run_interleaved((Variant(LIBRARIES, ("-c", IMPORTS)), warm), rounds)
    # Compiling takes so long that two rounds must do.
    return results | run_interleaved((cold,), min(rounds, 2))


def time_help(rounds: int, _: Path) -> Results:
    """Run `fluxseg --help`."""
    variants = (Variant(NOTHING, ("-c", "pass")), Variant(HELP, ("-m", "fluxseg", "--help")))
    return run_interleaved(variants, rounds)


PARTS = {
    "help": time_help,
    "predict": time_predictions,
    "train": time_first_steps,
}


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "startup", 5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        with tempfile.TemporaryDirectory() as empty:
            home = arguments.folder / "warm" if arguments.worker == "warm" else Path(empty)
            print(json.dumps(wait_for_first_step(arguments.folder / "cache", home)))
        return
    results: Results = {}
    summary: dict[str, list[measure.Row]] = {}
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[part](arguments.rounds, Path(folder))
        for figures in itertools.chain(*found.values()):
            figures.setdefault("seconds", figures["wall_seconds"])
        results |= found
        least = min(map(len, found.values()))
        both = {name: runs[:least] for name, runs in found.items()}
        for figure in ("seconds", "cpu_seconds"):
            title, reference = f"{part}, {figure}", next(iter(found))
            summary |= measure.compare(both, title, figure, reference, "s", False)
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
