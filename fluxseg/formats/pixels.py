"""Single-channel images - TIFF, PNG, JPEG, BMP, GIF - as arrays, with their exact values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.errors import RecordingError
from fluxseg.formats.npy import explain_damage, naming_file, open_regular
from fluxseg.formats.pick import NO_PICK, Pick, choose
from fluxseg.formats.stacks import Stack, read_stack
from fluxseg.formats.tiff import (
    MAX_PIXELS,
    TIFF_MAGICS,
    check_size,
    decode_page,
    get_page,
    open_tiff,
    quiet,
)
from fluxseg.io.files import atomic_path

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAGICS: dict[bytes, str] = {
    PNG_MAGIC: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    **dict.fromkeys(TIFF_MAGICS, "TIFF"),
}
"""How files of each format begin."""
COLOURS = ("red", "green", "blue")


def read_pixels(
    path: Path, *, labels: bool = False, pick: Pick = NO_PICK
) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one single-channel image `[H, W]` of the file's own dtype, and what is known about it.

    Of colour images, one whose colours are equal, or of which one alone is in use, counts as one
    channel; alpha is ignored. Of palettes the colours count if they are of one hue, else the
    numbers if larger ones are brighter. Images whose 0 is white are inverted. `labels` are the
    numbers as they are stored. A movie, and several channels or planes of which none is picked, are
    an error.

    Known are `format`; `um_per_px` if a TIFF file says so; and `remarks` if something was odd.
    """
    with naming_file(path):
        with open_regular(path) as (file, _):
            start = file.read(32)
        kind = next((kind for magic, kind in MAGICS.items() if start.startswith(magic)), None)
        if kind is None:
            raise RecordingError("", "is no image file: neither TIFF, PNG, JPEG, BMP nor GIF")
        facts: dict[str, Any] = {"format": kind}
        if kind == "TIFF":
            with open_tiff(path) as tiff:
                stack = read_stack(path, tiff, pick)
                if labels and len(stack.numbers) > 1:
                    what = f"holds {len(stack.numbers)} images: labels must be one image"
                    raise RecordingError("", f"{what}, with a number for each ROI")
                numbers = stack.select(pick)
                if len(numbers) > 1:
                    raise RecordingError("", movie_text(len(numbers)))
                image = read_image_of(path, tiff, stack, int(numbers[0]), pick, labels)
            told = {"um_per_px": stack.told.um_per_px, "remarks": stack.told.remarks}
            facts |= {name: value for name, value in told.items() if value}
        else:
            image = _read_picture(path, kind, start, labels, pick)
        return np.ascontiguousarray(image, image.dtype.newbyteorder("=")), facts


def read_image_of(
    path: Path, tiff: Any, stack: Stack, number: int, pick: Pick, labels: bool = False
) -> np.ndarray:
    """Read one image `[H, W]` of an opened TIFF file as `read_pixels` does, by its number.

    If the images are of one channel, that of `pick` is one of the samples of a pixel.
    """
    first = get_page(tiff, 0)
    if stack.offset is not None:
        shape = (first.imagelength, first.imagewidth)
        dtype = first.dtype.newbyteorder(tiff.byteorder)
        check_size(shape, path)
        with path.open("rb") as file:
            file.seek(stack.offset + number * first.nbytes)
            image = np.frombuffer(file.read(first.nbytes), dtype).reshape(shape)
        page = first
    else:
        page = get_page(tiff, number)
        if page.shape != first.shape or page.dtype != first.dtype:
            what = f"{list(page.shape)} of {page.dtype}"
            raise RecordingError("", f"page {number + 1} is {what}, unlike the first")
        image = decode_page(path, page)
    kind = int(page.photometric)
    if image.ndim == 3:
        # Alpha is marked as such; further samples of other files are channels.
        alpha = len([e for e in page.extrasamples if e]) if page.extrasamples else 0
        colour = kind in (2, 5, 6, 8)
        alpha = image.shape[2] - 3 if colour and kind != 5 and image.shape[2] > 3 else alpha
        image = image[..., : image.shape[2] - alpha] if alpha < image.shape[2] else image
        names = COLOURS if colour and image.shape[2] == 3 else ()
        image = one_channel(image, names, pick.channel if stack.samples else "", labels)
    if kind == 3 and not labels and page.colormap is not None:
        table = np.asarray(page.colormap).T
        return _apply_palette(image, table >> 8 if table.max() > 255 else table)
    # Programs differ about masks of one bit; that most of the field is no ROI is sure.
    if kind == 0 and (image.mean() > 0.5 if labels and page.bitspersample == 1 else not labels):
        if image.dtype == bool:
            return ~image
        top = image.dtype.type(2**page.bitspersample - 1) if image.dtype.kind == "u" else 0
        return top - image
    return image


def one_channel(
    image: np.ndarray, names: Sequence[str] = (), wanted: str = "", labels: bool = False
) -> np.ndarray:
    """Return the channel `[H, W]` of an image `[H, W, C]` that is wanted, or the only one in use.

    Without names channels are numbered. Of labels there are never several.
    """
    names = names or [str(number + 1) for number in range(image.shape[2])]
    channels = np.moveaxis(image, 2, 0)
    if not wanted:
        used = [channel for channel in channels if (channel != channel.flat[0]).any()]
        if all((channel == used[0]).all() for channel in used[1:]):
            return used[0] if used else channels[0]
    if labels:
        raise RecordingError("", "is in colours: labels must be one number for each ROI")
    found: np.ndarray = channels[choose("channel", names, wanted)]
    return found


def movie_text(frames: int) -> str:
    """Say of a file that should be an image that it is a movie, and what to do."""
    return (
        f"is a movie of {frames} frames: make an image of it with `fluxseg project FILE --output "
        "FOLDER`; images that are no movie must be files of their own"
    )


def _apply_palette(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the values of a palette `[K, 3]` of one hue, or its numbers if they grow brighter."""
    table = table[: int(image.max()) + 1].astype(np.uint8)
    if image.max() >= len(table):
        raise RecordingError("", "is damaged: it has colours that its palette does not")
    hues = [channel for channel in table.T if channel.any()]
    if all((channel == hues[0]).all() for channel in hues[1:]):
        return hues[0][image] if hues else np.zeros_like(image, np.uint8)
    brightness = table.astype(int) @ [299, 587, 114]
    if len(table) > 16 and (np.diff(brightness) >= 0).mean() > 0.95:
        return image
    raise RecordingError("", "is a colour image (a palette); save the channel of the neurons")


def _open_picture(path: Path, kind: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path, formats=(kind,))
    except UnidentifiedImageError as error:
        raise RecordingError("", f"is damaged: it begins as {kind} does, but is none") from error
    except Image.DecompressionBombError as error:
        raise RecordingError("", f"declares more than the limit of {MAX_PIXELS} pixels") from error


def _read_picture(path: Path, kind: str, start: bytes, labels: bool, pick: Pick) -> np.ndarray:
    """Read what is no TIFF."""
    if kind == "PNG" and start[24:25] == b"\x10" and start[25:26] in (b"\x02", b"\x04", b"\x06"):
        # Of 16 bits Pillow would keep 8 where there are several channels.
        import imagecodecs

        width, height = (int.from_bytes(start[at : at + 4], "big") for at in (16, 20))
        check_size((height, width), path, 16)
        with explain_damage():
            image = imagecodecs.png_decode(path.read_bytes()).reshape(height, width, -1)
        return _drop_alpha(image, pick, labels)
    # Its warning about large images comes before its error; the limit here is lower.
    with quiet(), explain_damage(), _open_picture(path, kind) as picture:
        check_size(picture.size[::-1], path, 1 if picture.mode == "1" else 8)
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise RecordingError("", movie_text(frames))
        if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            raise RecordingError("", f"is a colour image ({picture.mode}); save one channel")
        image = np.asarray(picture.convert("RGB") if picture.mode == "PA" else picture)
        palette = picture.getpalette("RGB") if picture.mode == "P" else None
    if palette is not None and not labels:
        return _apply_palette(image, np.array(palette).reshape(-1, 3))
    choose("plane", ("1",), pick.plane)
    if image.ndim == 3:
        return _drop_alpha(image, pick, labels)
    choose("channel", ("1",), pick.channel)
    return image


def _drop_alpha(image: np.ndarray, pick: Pick, labels: bool) -> np.ndarray:
    image = image[..., :-1] if image.shape[2] in (2, 4) else image
    names = COLOURS if image.shape[2] == 3 else ()
    return one_channel(image, names, pick.channel, labels)


def write_image_tiff(
    path: Path,
    image: np.ndarray,
    um_per_px: float | None = None,
    *,
    compress: bool = False,
    software: str | None = None,
    imagej: Mapping[str, Any] | None = None,
) -> None:
    """Write an image `[H, W]` as TIFF in its own dtype, with the size of a pixel if it is known.

    Booleans are written as 0 and 1. `compress` is without loss; not every tool reads that.
    `software` names who wrote it, and `imagej` is metadata that makes it a file of ImageJ.
    """
    import tifffile

    more: dict[str, Any] = {} if imagej is None else {"imagej": True, "metadata": {**imagej}}
    if um_per_px is not None and imagej is not None:
        more["metadata"]["unit"] = "um"
        more["resolution"] = (1 / um_per_px, 1 / um_per_px)
    elif um_per_px is not None:
        more |= {"resolution": (1e4 / um_per_px,) * 2, "resolutionunit": "CENTIMETER"}
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            image.astype(np.uint8) if image.dtype == bool else image,
            photometric="minisblack",
            compression="zlib" if compress else None,
            software=software,
            **more,
        )
