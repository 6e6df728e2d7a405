"""Names by which images and their labels know each other; `docs/data.md` has the table."""

import re
from pathlib import Path

IMAGE_SUFFIXES = (
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".lsm", ".stk", ".btf", ".tf8",
)  # fmt: skip
"""Endings of image files, in lower case; upper case is known as well."""
MICROSCOPE_SUFFIXES = (".czi", ".nd2", ".lif", ".oib", ".oif", ".oir", ".vsi", ".ims", ".sld")
"""Endings of formats of microscopes that are not read."""
SAVE_AS_TIFF = "a format of a microscope that is not read: save it as TIFF, as Fiji does"
SUITE2P_FILES = (
    "stat.npy", "iscell.npy", "ops.npy", "F.npy", "Fneu.npy", "spks.npy", "redcell.npy",
    "F_chan2.npy", "Fneu_chan2.npy",
)  # fmt: skip
"""Files of a plane of Suite2p, of which none is anything without the others."""
SEG_ENDING = "_seg.npy"
"""What follows the name of an image in the name of the file of Cellpose's GUI."""

# ImageJ names what it makes of a.tif "Mask of a.tif".
_WORDS = (
    r"(?:cp_|count )?masks?(?: of)?|labels?|label[_\- ]?(?:image|map)|lbl|seg|segmentations?|gt|"
    r"ground[_\- ]?truth|annotations?"
)
_GAP = r"[_\-. ]+"


def _around(words: str) -> re.Pattern[str]:
    return re.compile(f"(?:{words})|(.+?){_GAP}(?:{words})|(?:{words}){_GAP}(.+)", re.IGNORECASE)


_LABELS = _around(_WORDS)
_ROI_SETS = rf"rois?|roi[ _-]?sets?|{_WORDS}"
_ROIS, _LABEL_FOLDERS = _around(f"missed|corrected|{_ROI_SETS}"), _around(_ROI_SETS)
_IMAGES = _around("images?|imgs?|raw")
_KINDS = "avg|max|min|sum|std|med|mean|correlation"
_PROJECTED = re.compile(f"(?:{_KINDS})_(.+)|(.+)_(?:{_KINDS})", re.IGNORECASE)
_CELLPOSE = re.compile("(.+?)_(?:cp_(?!masks$).+|flows|outlines|dp|cellprob)", re.IGNORECASE)
_NNUNET = re.compile("(images|labels)(t[rs])", re.IGNORECASE)


def is_image_name(path: Path) -> bool:
    """Tell whether a file has the ending of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_label_name(path: Path) -> bool:
    """Tell whether an image file is named as labels."""
    return is_image_name(path) and _rest(_LABELS, stem_of(path)) is not None


def stem_of(path: Path) -> str:
    """Return the name of a file without its ending, of which `.ome.tif` is one."""
    if path.name.endswith(SEG_ENDING):
        return path.name.removesuffix(SEG_ENDING)
    return re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE)


def image_of_cellpose(path: Path) -> str:
    """Return the name of the image that an output of Cellpose without labels is of, or ""."""
    found = _CELLPOSE.fullmatch(stem_of(path))
    return found[1] if found else ""


def image_names(path: Path) -> list[str]:
    """Return the names that labels of an image can have, the likeliest first, in lower case too."""
    stem = stem_of(path)
    names = [stem, stem.casefold()]
    if folder_role(path.parent.name)[1] in ("tr", "ts"):
        names.append(re.sub(r"_\d{4}$", "", stem))
    projected = _PROJECTED.fullmatch(stem)
    names += [projected[1] or projected[2]] if projected else []
    rest = _rest(_IMAGES, stem)
    names += [] if rest is None else [rest]
    return list(dict.fromkeys([*names, *(name.casefold() for name in names)]))


def label_names(path: Path) -> list[str]:
    """Return the names of images that a file of labels may belong to; "": it does not tell."""
    stem = stem_of(path)
    seg = path.name.endswith(SEG_ENDING)
    rest = None if seg else _rest(_LABELS if is_image_name(path) else _ROIS, stem)
    names = [] if rest is None else [rest, rest.casefold()]
    # ROIs may be named just like their image, even if that has a word in its name.
    names += [stem, stem.casefold()] if rest is None or not is_image_name(path) else []
    # Some add to the whole name of the image: a.tif.zip.
    names += [stem_of(Path(name)) for name in names if is_image_name(Path(name))]
    return list(dict.fromkeys(names))


def folder_role(name: str) -> tuple[str, str]:
    """Return "images", "labels" or "", and what tells such folders apart ("train")."""
    nnunet = _NNUNET.fullmatch(name)
    if nnunet:
        return nnunet[1].lower(), nnunet[2].lower()
    for role, pattern in (("images", _IMAGES), ("labels", _LABEL_FOLDERS)):
        rest = _rest(pattern, name)
        if rest is not None:
            return role, rest.casefold()
    return "", ""


def _rest(pattern: re.Pattern[str], text: str) -> str | None:
    """Return what is left of a text without the word, None if it is not there."""
    found = pattern.fullmatch(text)
    return (found[1] or found[2] or "") if found else None
