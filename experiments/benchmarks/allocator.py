"""What the memory settings of the `fluxseg` command are worth: speed, page faults, memory.

What: training steps of the default config on random crops, each variant in a process of its own:
    glibc's own settings, those of `fluxseg.allocator`, and those with one of them left out each.
    `peak_mb` is the largest memory of the process, `resident_mb` what it holds after the steps.
Command: python -m experiments.benchmarks.allocator
Takes: 15 s a variant and round once its programs are in the compilation cache.
"""

import os
import resource
import statistics
import time
from pathlib import Path

import numpy as np

from experiments.benchmarks.measure import (
    MALLOC_SETTINGS,
    Variant,
    create_parser,
    print_json,
    print_table,
    run_interleaved,
    summarise,
    write_results,
)
from fluxseg.allocator import SWITCH, tune_allocator

DEFAULT = "default"


def list_variants(seconds: float) -> list[Variant]:
    """List the contestants.

    Args:
        seconds: of measuring in each process.
    """
    command = (
        *("-m", "experiments.benchmarks.allocator"),
        *("--seconds", str(seconds), "--worker"),
    )
    huge = {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:{MALLOC_SETTINGS['GLIBC_TUNABLES']}"}
    return [
        Variant(DEFAULT, (*command, "plain")),
        Variant("mallopt", (*command, "mallopt")),
        Variant("environment", (*command, "plain"), MALLOC_SETTINGS),
        Variant("environment, huge pages", (*command, "plain"), huge),
    ]


def measure_steps(seconds: float) -> dict[str, float]:
    """Take training steps of the default config, and count what they cost.

    Args:
        seconds: how long, after two steps that are not counted.

    Returns:
        Steps a second, page faults a step, share of the processor time that the system takes,
        and the memory that the process holds, MB.
    """
    import jax

    from fluxseg.compilation import enable_compilation_cache
    from fluxseg.config import Config
    from fluxseg.training.sharding import count_micro_batches, make_mesh, make_train_step, replicate
    from fluxseg.training.state import create_train_state

    enable_compilation_cache()
    config, mesh = Config(), make_mesh()
    state = replicate(create_train_state(config, np.ones(2), 1000), mesh)
    train_step = make_train_step(mesh, count_micro_batches(config, mesh))
    rng = np.random.default_rng(0)
    shape = (config.train.batch_size, config.data.tile, config.data.tile)
    batch = {
        "image": rng.random((*shape, 1), np.float32),
        "label": (rng.random(shape) < 0.1).astype(np.uint8),
        "valid": np.ones(shape, np.uint8),
    }
    durations: list[float] = []
    for number in range(10**6):
        if number == 2:
            before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()
        state, metrics = train_step(state, batch)
        jax.block_until_ready((state, metrics))
        if number >= 2:
            durations.append(time.perf_counter() - began)
        if sum(durations) > seconds:
            break
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = after.ru_stime - before.ru_stime
    total = system + after.ru_utime - before.ru_utime
    return {
        "steps_per_second": 1 / statistics.median(durations),
        "faults_per_step": (after.ru_minflt - before.ru_minflt) / len(durations),
        "system_share": system / total,
        "resident_mb": _resident_mb(),
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = create_parser(__doc__, "allocator", 3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring in each process")
    arguments = parser.parse_args()
    if arguments.worker == "mallopt":
        # Set to "default" for all variants, so that each gets its own settings alone.
        os.environ.pop(SWITCH, None)
        assert tune_allocator()
    if arguments.worker:
        print_json(measure_steps(arguments.seconds))
        return
    results = run_interleaved(list_variants(arguments.seconds), arguments.rounds)
    summary = {}
    for figure, unit, larger in (
        ("steps_per_second", "steps/s", True),
        ("peak_mb", "MB", False),
        ("resident_mb", "MB", False),
    ):
        summary[figure] = summarise(results, figure, DEFAULT, larger_is_better=larger)
        print_table(figure.replace("_", " "), summary[figure], unit)
    # No ratios: there may be none at all.
    for name, rounds in results.items():
        faults = statistics.median(row["faults_per_step"] for row in rounds)
        share = statistics.median(row["system_share"] for row in rounds)
        print(f"{name}: {faults:.0f} page faults a step, {100 * share:.0f} % in the system")
    write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()
