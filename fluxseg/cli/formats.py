"""The verb that converts recordings between formats."""

from pathlib import Path

import tyro

from fluxseg.arguments import PickOptions
from fluxseg.console import create_console, open_console, progress_bars
from fluxseg.errors import FluxsegError, RecordingError
from fluxseg.formats.formats import Format
from fluxseg.formats.pick import NO_PICK, Pick
from fluxseg.io.names import distinct_name, safe_name
from fluxseg.io.progress import tracked

WITHOUT_ROIS = ("labels", "npz", "nwb")  # formats that an image can be written in


def convert(
    source: tyro.conf.Positional[Path],
    target: tyro.conf.Positional[Path],
    /,
    format: Format | None = None,
    image: Path | None = None,
    pick: PickOptions = NO_PICK,
    overwrite: bool = False,
) -> int:
    """Convert a recording, or a folder of recordings, to the format of another tool.

    The input's format is told by its content: .npy dicts as Allen's, .npz, TIFF, PNG and JPEG with
    masks beside, Cellpose _seg.npy, Suite2p folders, ImageJ ROI sets, NWB, Neurofinder and
    COCO. What the output cannot hold is printed. Exit code 1 if a recording of a folder failed.

    Args:
        source: A recording, or a folder of recordings.
        target: File or folder to write; for a folder of recordings, the folder to write them to.
        format: Format to write; by default the ending of the name tells it (a name without ending
            is a Suite2p folder). labels: image and label image as TIFF. cellpose-pair: image and
            masks that Cellpose trains on.
        image: Image of a file that holds ROIs only; by default one of the same name beside it.
        overwrite: Write over files that exist.
    """
    from fluxseg.formats.convert import guess_format, read_recording, write_recording

    console = create_console()
    open_console(stderr=True)
    if source.is_dir() and not _is_recording(source):
        return _convert_folder(source, target, format, overwrite, pick)
    kind = format or guess_format(target)
    recording = read_recording(source, image, pick)
    if recording.masks is None and kind not in WITHOUT_ROIS:
        what = "holds no ROIs; if it is a label image, give the image of it with --image"
        raise RecordingError(str(source), what)
    remarks = write_recording(target, recording, kind, overwrite=overwrite)
    for remark in (*recording.remarks, *remarks):
        console.print(f"remark: {remark}")
    console.print(f"written: {target}")
    return 0


def _is_recording(folder: Path) -> bool:
    from fluxseg.formats.convert import detect_format

    try:
        detect_format(folder)
    except FluxsegError:
        return False
    return True


def _choose_name(recording_id: str, format: Format, taken: set[str]) -> str:
    """Return a file name for a recording; its masks, if beside it, take none of another's."""
    name = distinct_name(safe_name(recording_id), taken)
    beside = "_labels" if format == "labels" else ""
    while beside and f"{name}{beside}".casefold() in taken:
        name = distinct_name(name, taken)
    taken.add(f"{name}{beside}".casefold())
    return name


def _convert_folder(
    source: Path, target: Path, format: Format | None, overwrite: bool, pick: Pick
) -> int:
    from fluxseg.data.recording import NO_GROUP
    from fluxseg.errors import ConfigError
    from fluxseg.formats.convert import write_recording
    from fluxseg.formats.formats import ENDINGS
    from fluxseg.formats.sources import NO_TEXT, FolderSource, format_unused, unused_files

    if format is None:
        raise ConfigError("--format is needed to convert a folder of recordings")
    console = create_console()
    recordings = FolderSource(str(source), pick)
    keys = recordings.keys()
    failed = alone = 0
    taken: set[str] = set()
    with progress_bars(console, ("Converting", "recordings")) as (progress,):
        for key in tracked(keys, progress):
            try:
                recording = recordings.read(key)
                name = _choose_name(recording.id, format, taken) + ENDINGS[format]
                remarks = write_recording(target / name, recording, format, overwrite=overwrite)
            except FluxsegError as error:
                failed += 1
                reason = str(error).removeprefix(str(source / key)).lstrip(": ")
                console.print(f"failed: {key}: {reason}")
            else:
                alone += NO_GROUP in recording.remarks
                for remark in (*recording.remarks, *remarks):
                    if remark != NO_GROUP:
                        console.print(f"{key}: remark: {remark}")
    console.print(f"{len(keys) - failed} of {len(keys)} recordings written to {target}")
    if alone:
        console.print(f"{alone} of them: {NO_GROUP}")
    unused = unused_files(recordings)
    for line in format_unused(unused):
        console.print(line)
    return 1 if failed or NO_TEXT in unused.values() else 0
