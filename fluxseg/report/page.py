"""HTML pages from the templates of this folder: the template escapes every value."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from fluxseg.io.files import write_text
from fluxseg.io.markup import png_address
from fluxseg.model.score_names import SPLIT_TITLES


def embed_png(png: bytes, alt: str) -> dict[str, Any]:
    """Return `uri`, `width`, `height` and `alt` of a PNG file for a page."""
    # The size stands at a fixed place of every PNG; with it the page does not jump while loading.
    width, height = struct.unpack(">II", png[16:24])
    return {"uri": png_address(png), "width": width, "height": height, "alt": alt}


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page from a template and return its path; `WorkdirError` if it cannot be written.

    It needs no other file, no script and no network.
    """
    write_text(path, render_template(template, **values))
    return path


def render_template(name: str, **values: Any) -> str:
    """Render a page from a template of this folder; every value is escaped."""
    page = _create_environment().get_template(name).render(**values)
    # Names may hold halves of surrogate pairs, which no file can.
    return page.encode("utf-8", "replace").decode("utf-8")


def _create_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "score": _score,
        "percent": _percent,
        "count": _count,
        "duration": _duration,
        "setting": _setting,
        "split_title": split_title,
        "worst_first": _worst_first,
    }
    environment.tests["contains"] = lambda sequence, item: item in sequence
    return environment


def _worst_first(recordings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    def rank(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        value = row["scores"]["neuron_iou"]
        return value is None, value or 0.0, row["key"]

    return sorted(recordings, key=rank)


def split_title(split: str) -> str:
    """Return what people call a split."""
    return SPLIT_TITLES.get(split, split)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) and value else json.dumps(value)


def _score(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _count(value: int, noun: str) -> str:
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
