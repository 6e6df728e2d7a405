"""HTML tables and pictures for notebooks; every value is escaped."""

import base64
import functools
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

MAX_TEXT = 200  # characters that are shown of a value
MAX_SIDE = 320  # longest side of a thumbnail, px
_TABLE = """\
<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start">
{%- if picture %}
<img src="{{ picture }}" alt="{{ alt }}" style="image-rendering:pixelated">
{%- endif %}
<table style="font-variant-numeric:tabular-nums">
{%- if title %}<caption style="text-align:left;font-weight:bold">{{ title }}</caption>{% endif %}
{%- if header %}<thead><tr>
{%- for cell in header %}<th style="text-align:left">{{ cell }}</th>{% endfor %}</tr></thead>
{%- endif %}
<tbody>
{%- for row in rows %}<tr>
{%- for cell in row %}<td style="text-align:left">{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>"""


@functools.cache
def _template() -> Any:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_TABLE)


def render_table(
    rows: Iterable[Sequence[Any]],
    header: Sequence[str] = (),
    *,
    title: str = "",
    picture: str = "",
    alt: str = "",
) -> str:
    """Render rows of values as an HTML table without scripts, with a picture to its left if given.

    Cells may be anything: they are shown as text, long ones cut. `picture` is a `data:` address
    (see `picture_address`), and `alt` says in words what it shows.
    """
    cells = [[_text(value) for value in row] for row in rows]
    return _template().render(rows=cells, header=header, title=title, picture=picture, alt=alt)


def picture_address(pixels: np.ndarray) -> str:
    """Return a picture `[H, W]` or `[H, W, 3]` uint8 as an address that holds it, a small PNG.

    Large ones are thinned out to at most `MAX_SIDE` px.
    """
    from PIL import Image

    step = -(-max(pixels.shape[:2]) // MAX_SIDE)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).save(buffer, format="PNG")
    return png_address(buffer.getvalue())


def png_address(png: bytes) -> str:
    """Return the content of a PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _text(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
