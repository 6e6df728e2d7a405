"""What is written for a movie: Suite2p's folder, traces, a table, and files for other tools."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from fluxseg.data.recording import Recording
from fluxseg.data.resample import disc_diameter
from fluxseg.errors import ConfigError
from fluxseg.formats.convert import write_recording
from fluxseg.formats.finite import finite_image
from fluxseg.formats.formats import ENDINGS, TracesFormat
from fluxseg.formats.labels import merge_labels
from fluxseg.formats.nwb_write import write_nwb
from fluxseg.formats.own import MARK, sign_masks
from fluxseg.formats.suite2p import check_foreign, write_suite2p_traces
from fluxseg.io.files import atomic_path
from fluxseg.io.tables import write_csv
from fluxseg.traces.extract import Traces
from fluxseg.traces.find import Found
from fluxseg.traces.passes import Projections

SUITE2P = "suite2p/plane0"
TABLE = "neurons.csv"
_COLUMNS = (
    "neuron", "x_px", "y_px", "area_px", "diameter_px", "confidence", "mean_f", "mean_neuropil",
    "skew", "snr", "noise",
)  # fmt: skip


def check_formats(folder: Path, formats: Sequence[TracesFormat]) -> None:
    """Raise at once what `write_traces` would raise after hours.

    Raises `ConfigError` if a format needs a package that is not there, or does not exist; and
    `WorkdirError` if the folder holds results of Suite2p itself.
    """
    if unknown := sorted(set(formats) - set(get_args(TracesFormat))):
        raise ConfigError(f"there is no format {unknown[0]!r}")
    if "suite2p" in formats:
        check_foreign(folder / SUITE2P)
    if "nwb" in formats and importlib.util.find_spec("pynwb") is None:
        raise ConfigError("--format nwb needs the package pynwb: pip install pynwb")


def write_traces(
    folder: Path,
    name: str,
    images: Projections,
    found: Found,
    traces: Traces,
    formats: Sequence[TracesFormat],
) -> list[str]:
    """Write the files of a movie to a folder, each whole or not at all; return their names.

    suite2p is `suite2p/plane0`, which Suite2p's GUI opens; npz `traces.npz` with `F`, `Fneu`, `dff`
    and `spks`, each `[N, T]`; csv `traces.csv`, dF/F, a row a frame; nwb `NAME.nwb` with
    Fluorescence and DfOverF; the others are the ROIs without traces. The table `neurons.csv` is
    always written. What cannot be written is a `WorkdirError`.
    """
    metadata: dict[str, Any] = {"roi_quality": np.round(found.confidence, 4).tolist()}
    if images.facts.um_per_px is not None:
        metadata["um_per_px"] = images.facts.um_per_px
    masks = found.footprints.masks()
    metadata["made_by"] = sign_masks(merge_labels(masks))
    recording = Recording(name, images.largest, masks, found.names, metadata=metadata)
    arrays = {"F": traces.f, "Fneu": traces.neuropil, "spks": traces.spikes}
    files = []
    for kind in dict.fromkeys(formats):
        if kind == "suite2p":
            files.append(SUITE2P)
            write_suite2p_traces(
                folder / SUITE2P, recording, found.footprints.weights, arrays,
                {k: v for k, v in traces.measures.items() if k != "noise"},
                {
                    "fs": traces.rate, "tau": 1.0 if traces.tau is None else traces.tau,
                    "meanImg": finite_image(images.mean)[0],
                    "max_proj": finite_image(images.largest)[0],
                    "Vcorr": finite_image(images.correlation)[0],
                },
            )  # fmt: skip
        elif kind == "npz":
            files.append("traces.npz")
            _write_npz(folder / files[-1], found, traces, arrays)
        elif kind == "csv":
            files.append("traces.csv")
            _write_csv(folder / files[-1], found, traces)
        elif kind == "nwb":
            files.append(f"{name}.nwb")
            shown = {"F": traces.f, "Fneu": traces.neuropil, "dff": traces.dff}
            write_nwb(folder / files[-1], recording, traces=shown, rate=traces.rate)
        else:
            files.append(f"{name}{ENDINGS[kind]}")
            write_recording(folder / files[-1], recording, kind, overwrite=True)
    write_csv(folder / TABLE, _COLUMNS, tabulate_traces(found, traces))
    return [*files, TABLE]


def tabulate_traces(found: Found, traces: Traces) -> list[dict[str, Any]]:
    """List the neurons of a movie: a row a neuron with the columns of `neurons.csv`."""
    width = found.footprints.shape[1]
    rows = []
    for number, pixels in enumerate(found.footprints.pixels):
        y, x = np.divmod(pixels, width)
        measures = {
            k: round(float(traces.measures[k][number]), 4) for k in ("skew", "snr", "noise")
        }
        rows.append(
            {
                "neuron": found.names[number],
                "x_px": round(float(x.mean()), 2),
                "y_px": round(float(y.mean()), 2),
                "area_px": len(pixels),
                "diameter_px": round(float(disc_diameter(np.array(len(pixels)))), 2),
                "confidence": round(float(found.confidence[number]), 4),
                "mean_f": round(float(traces.f[number].mean()), 3),
                "mean_neuropil": round(float(traces.neuropil[number].mean()), 3),
                **measures,
            }
        )
    return rows


def _write_npz(path: Path, found: Found, traces: Traces, arrays: dict[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file, allow_pickle=False, **{MARK: np.array(1), **arrays}, dff=traces.dff,
            rate=traces.rate,
            names=np.array(found.names, dtype=str), confidence=found.confidence, **traces.measures,
        )  # fmt: skip


def _write_csv(path: Path, found: Found, traces: Traces) -> None:
    names = [f"neuron {name}" for name in found.names]
    rows = (
        {"time_s": round(frame / traces.rate, 4)}
        | {name: round(value, 5) for name, value in zip(names, values.tolist(), strict=True)}
        for frame, values in enumerate(traces.dff.T)
    )
    write_csv(path, ("time_s", *names), rows)
