"""Verbs about recordings: are they usable, prepare them, simulate some."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fluxseg.arguments import PickOptions
from fluxseg.config import Config, DataConfig, SimulatorConfig
from fluxseg.console import create_console, open_console, progress_bars
from fluxseg.errors import ConfigError
from fluxseg.formats.pick import NO_PICK, pick_data
from fluxseg.io.progress import tracked


def check(
    source: tyro.conf.Positional[str],
    /,
    pick: PickOptions = NO_PICK,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    workers: int = 0,
) -> int:
    """Say of each file of a folder whether it is usable, and find duplicates.

    Exit code 1 if any file is unusable.

    Args:
        source: A folder of recordings, one file, or "simulator".
        json_: Print JSON instead of lines.
        workers: Processes to use; 0: one per CPU core.
    """
    from fluxseg.data.checks import check_source, format_report
    from fluxseg.formats.sources import NO_TEXT, format_unused, open_source, unused_files

    opened = open_source(Config(data=DataConfig(source=source, pick=str(pick))))
    console, errors = create_console(), open_console(stderr=True)
    with progress_bars(errors, ("Checking", "recordings")) as (progress,):
        report = check_source(opened, workers, progress)
    unused = unused_files(opened)
    if json_:
        listed = [[str(path), reason] for path, reason in unused.items()]
        print(json.dumps({**report.to_json(), "not_used": listed}, indent=1))
    else:
        for line in (*format_report(report), *format_unused(unused)):
            console.print(line)
    return 1 if report.counts["unusable"] or NO_TEXT in unused.values() else 0


def prepare(
    source: tyro.conf.Positional[str],
    /,
    output: Path,
    format: Literal["cache", "jpg", "png"] = "cache",
    mask_format: Literal["png", "jpg"] = "png",
    quarters: bool = False,
    repair: bool = False,
    pick: PickOptions = NO_PICK,
    data: DataConfig = DataConfig(),  # noqa: B008
) -> int:
    """Prepare the crops of a folder of recordings, or write it as image files.

    An interrupted call goes on where it stopped. Use the result with
    --config.data.source SOURCE --config.data.cache OUTPUT.

    Args:
        source: A folder of recordings, or "simulator".
        output: Folder to write to.
        format: cache: crops for training. jpg or png: an 8-bit image and a mask file for each
            recording, as the reference protocol has them.
        mask_format: Format of the masks written with --format jpg or png; jpg blurs their edges.
        quarters: With --format jpg or png, cut each recording into its four quarters.
        repair: Read all crops in OUTPUT, and make those again that are damaged or missing, and
            only those.
        data: Crop size, normalisation and number of processes.
    """
    from fluxseg.data.prepare import prepare_cache, repair_cache
    from fluxseg.formats.export import export_images
    from fluxseg.formats.sources import format_unused, open_source, unused_files

    if repair and format != "cache":
        raise ConfigError("--repair is for crops (--format cache)")
    config = pick_data(Config(data=dataclasses.replace(data, source=source)), pick)
    data = config.data
    console = open_console()
    opened = open_source(config)
    with progress_bars(console, ("Preparing", "recordings")) as (progress,):
        if repair:
            index, remade = repair_cache(opened, output, data, progress)
            console.print(f"{len(remade)} of {len(index.shards)} shards were damaged")
            used, left_out = len(index.entries), index.left_out
        elif format == "cache":
            index = prepare_cache(opened, output, data, progress)
            used, left_out = len(index.entries), index.left_out
        else:
            used, left_out = export_images(
                opened, output, data, format, mask_format, quarters=quarters, progress=progress
            )
    for key, reason in left_out:
        console.print(f"left out: {key}: {reason}")
    for line in format_unused(unused_files(opened)):
        console.print(line)
    console.print(f"{used} recordings prepared in {output}, {len(left_out)} left out")
    return 0


def simulate(
    output: tyro.conf.Positional[Path],
    /,
    simulator: SimulatorConfig = SimulatorConfig(),  # noqa: B008
) -> int:
    """Write simulated recordings as .npy files, in the form that the Allen data have.

    Args:
        output: Folder to write to.
        simulator: How many, and of which kind.
    """
    from fluxseg.formats.allen import write_allen_npy
    from fluxseg.simulation.sessions import SimulatedSource

    source = SimulatedSource(simulator)
    keys = source.keys()
    output.mkdir(parents=True, exist_ok=True)
    console = create_console()
    with progress_bars(console, ("Simulating", "recordings")) as (progress,):
        for key in tracked(keys, progress):
            write_allen_npy(output / f"{key}.npy", source.read(key))
    console.print(f"{len(keys)} recordings written to {output}")
    return 0
