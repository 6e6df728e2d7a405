"""One page of all predicted images: overlays to look at, counts, diameters, warnings."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxseg.formats.own import MARK
from fluxseg.formats.sources import format_unused
from fluxseg.inference.outputs import FILES
from fluxseg.inference.predict_files import Outcome
from fluxseg.report.page import write_page

SHOWN = 200  # images with a picture on the page; all of them are in its table
SIDE = 640  # longest side of a picture on the page, px


def write_predictions_page(
    output: Path, outcomes: Sequence[Outcome], unused: Mapping[Path, str], model: str
) -> Path:
    """Write `predictions.html`, which needs no other file, no script and no network.

    `unused` are files that are not used, and why; `model` is the name of the model. Raises
    `WorkdirError` if it cannot be written.
    """
    folders = {Path(outcome.input).parent for outcome in outcomes}
    # Of one folder the names alone tell more.
    above = f"{folders.pop()}/" if len(folders) == 1 else ""
    rows: list[dict[str, Any]] = []
    pictured = 0
    for outcome in outcomes:
        overlay, picture = output / f"{outcome.name}{FILES['overlay']}", None
        if pictured < SHOWN and overlay.name in outcome.files:
            picture = _shrink(overlay, f"Outlines of the neurons found in {outcome.name}")
            pictured += 1
        title = outcome.input.removeprefix(above)
        rows.append({"title": title, "picture": picture, "found": outcome})
    return write_page(
        output / "predictions.html",
        "predictions.html",
        rows=rows,
        unused=format_unused(unused),
        model=model,
        mark=MARK,
    )


def _shrink(path: Path, alt: str) -> dict[str, Any] | None:
    """Return a small copy of a picture for the page, None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError):
        return None
    small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"uri": uri, "width": small.width, "height": small.height, "alt": alt}
