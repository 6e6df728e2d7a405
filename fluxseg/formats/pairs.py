"""Image, labels, or something else: what the files of a folder are to each other.

Every verb goes by this one piece of code; `docs/data.md` has it as a table, with all names. Labels
without an image, and several for one image, are an error that says what was looked for.
"""

import dataclasses
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fluxseg.errors import RecordingError
from fluxseg.formats.folders import (
    LABELS,
    ROLES,
    files_in,
    folders_in,
    image_folders,
    label_folders,
    list_folder,
    role_of,
)
from fluxseg.formats.imagej import holds_rois
from fluxseg.formats.json_files import look_into
from fluxseg.formats.label_names import (
    SEG_ENDING,
    image_names,
    image_of_cellpose,
    is_image_name,
    label_names,
    stem_of,
)
from fluxseg.formats.microscope_xml import recorded_in
from fluxseg.formats.own import OWN, is_prediction
from fluxseg.formats.series import find_frames

SETTLED = 2.0  # seconds without a change after which it is remembered what is in a folder
_ROI_SET = re.compile(r"roi[ _-]?sets?.*\.zip", re.IGNORECASE)

Labels = dict[Path, tuple[Path, ...]]


@dataclasses.dataclass(frozen=True)
class Sorted:
    """The files of one folder."""

    # every image, and the files with its labels: none, one, or one for each ROI
    labels: Mapping[Path, tuple[Path, ...]]
    doubts: Mapping[Path, str]  # the images of which these cannot be told, and why
    others: tuple[Path, ...]  # other recordings
    wrong: Mapping[Path, str]  # labels without an image, and what was looked for
    unused: Mapping[Path, str]  # other files, and why they are nothing to fluxseg
    # images that are frames or parts of a movie, and what to do with them
    frames: Mapping[Path, str]
    places: tuple[Path, ...]  # the folders that were looked into


def find_labels(path: Path) -> tuple[Path, ...]:
    """Return the files with the labels of an image: none, one, or one for each ROI.

    An error if they cannot be told, or the file itself is labels without an image.
    """
    found = sort_folder(path.parent)
    if path in found.wrong:
        raise RecordingError("", found.wrong[path])
    if path in found.doubts:
        raise RecordingError("masks", found.doubts[path])
    return found.labels.get(path, ())


def find_image(path: Path) -> Path | None:
    """Return the image that a file of ROIs belongs to, None without one; several are an error."""
    found = sort_folder(path.parent).labels
    names = label_names(path)
    near = [image for image, labels in found.items() if path in labels]
    # It may be asked for by its name although the image has other labels too.
    near = near or [image for image in found if set(names) & set(image_names(image))]
    near = near or (list(found) if "" in names else [])
    if len(near) > 1:
        listed = _list(near)
        raise RecordingError("image", f"several images are beside it: {listed}; name one (--image)")
    return near[0] if near else None


_known: dict[Path, tuple[tuple[float, ...], Sorted]] = {}


def sort_folder(folder: Path) -> Sorted:
    """Tell what each file in a folder is, by the table in `docs/data.md`."""
    known = _known.get(folder)
    if known is not None and known[0] == _times(known[1].places):
        return known[1]
    began = time.time()
    result = _sort(folder)
    times = _times(result.places)
    # A file that comes within the same tick of the clock would never be seen.
    if max(times) < began - SETTLED:
        _known[folder] = (times, result)
    return result


def _times(folders: Iterable[Path]) -> tuple[float, ...]:
    return tuple(folder.stat().st_mtime if folder.is_dir() else 0.0 for folder in folders)


def _sort(folder: Path) -> Sorted:
    kinds = {path: role_of(path) for path in list_folder(folder)}
    unused = {path: kind for path, kind in kinds.items() if kind not in ROLES}
    others = [path for path, kind in kinds.items() if kind == "recording"]
    owners = image_folders(folder)
    if not owners and "roi" in kinds.values() and "image" not in kinds.values():
        above = [path for path in files_in(folder.parent) if is_image_name(path)]
        names = {name for path in above for name in image_names(path)}
        owners = [folder.parent] if names & set(label_names(folder)) else []
    if owners:
        wrong = _without_image(kinds, owners)
        return Sorted({}, {}, tuple(others), wrong, unused, {}, (folder, folder.parent, *owners))
    stems = {stem_of(path).casefold() for path, kind in kinds.items() if kind == "image"}
    if folder.name in ("flows", "outlines"):
        # Cellpose can write into folders of these names.
        stems |= {stem_of(path).casefold() for path in files_in(folder.parent)}
    images: list[Path] = []
    for path, kind in kinds.items():
        if kind == "image" and image_of_cellpose(path).casefold() in stems:
            unused[path] = "output of Cellpose without labels"
        elif kind in ("image", "copy"):
            images.append(path)
    named = [path for path, kind in kinds.items() if kind in LABELS]
    folders = label_folders(folder)
    listed, listing = _listed(folder, kinds) if images else ({}, ())
    labels, doubts = _pair(images, named, folders, listed)
    if len(images) == 1 and not labels[images[0]] and not doubts:
        labels[images[0]] = _labels_of_only(named, folders)
    labels |= _rois_in_folders(folder, [image for image in images if not labels[image]])
    for path in [path for path in images if kinds[path] == "copy" and not labels[path]]:
        images.remove(path)
        unused[path] = OWN
        del labels[path]
    used = {path for files in labels.values() for path in files}
    wrong = {}
    for path in named:
        if path in used:
            continue
        rivals = [i for i in images if set(label_names(path)) & set(image_names(i))]
        if any(image in doubts for image in rivals):
            continue
        if rivals:
            unused[path] = f"the labels are taken from {labels[rivals[0]][0].name}"
        elif kinds[path] == "seg":
            # It may hold its image itself, and reading it says if not.
            others.append(path)
        elif kinds[path] != "coco" or not any(_images_below(path)):
            wrong[path] = _complain(path, kinds[path], images)
    told = {name for recorded in recorded_in(folder) for name in recorded.files}
    bare = [i for i in images if not labels[i] and i not in doubts and i.name not in told]
    places = (folder, *folders, *listing, *({p.parent for p in used} - {folder, *folders}))
    return Sorted(labels, doubts, tuple(others), wrong, unused, find_frames(bare), places)


def _without_image(kinds: Mapping[Path, str], owners: Sequence[Path]) -> dict[Path, str]:
    """Return what is wrong with those images of a folder of labels that belong to no image."""
    used: set[Path] = set()
    for owner in owners:
        found = sort_folder(owner)
        used |= {path.resolve() for files in found.labels.values() for path in files}
        if found.doubts:
            used |= {path.resolve() for path in kinds}
    where = " or ".join(f"{owner.name}/" for owner in owners)
    return {
        path: "is in a folder of labels, but its image is not there: looked for "
        f"{label_names(path)[0]}.* in {where}"
        for path, kind in kinds.items()
        if kind in ("image", "labels", "rois", "roi") and path.resolve() not in used
    }


def _listed(folder: Path, kinds: Mapping[Path, str]) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Return the COCO file of each image name that one lists, and the folders above with such."""
    files = {path: folder for path, kind in kinds.items() if kind == "coco"}
    # COCO's own folders are annotations and images/train.
    above = [folder.parent, *(p / "annotations" for p in folder.parents[:2])] if folder.name else []
    for place in above:
        files |= {p: place for p in files_in(place) if p.suffix.lower() == ".json"}
    found: dict[str, Path] = {}
    for path in reversed(files):
        if look_into(path)[0] == "coco":
            found |= dict.fromkeys(look_into(path)[1], path)
    return found, tuple({files[path] for path in found.values()} - {folder})


def _images_below(path: Path) -> Iterable[Path]:
    """Yield the images that a COCO file lists, in its folder and in those beside and below it."""
    names = set(look_into(path)[1])
    places = [path.parent, *folders_in(path.parent)]
    if path.parent.name.casefold() == "annotations":
        beside = folders_in(path.parent.parent)
        places += [*beside, *(inner for place in beside for inner in folders_in(place))]
    return (image for place in places for image in files_in(place) if image.name in names)


def _pair(
    images: Sequence[Path],
    named: Sequence[Path],
    folders: Sequence[Path],
    listed: Mapping[str, Path],
) -> tuple[Labels, dict[Path, str]]:
    """Give each image its labels; also return why that of some cannot be told."""
    pool: dict[str, list[Path]] = {}
    for path in named:
        for name in label_names(path):
            pool.setdefault(name, []).append(path)
    for path in (path for folder in folders for path in files_in(folder)):
        if (is_image_name(path) and not is_prediction(path)) or _is_roi_set(path):
            # In a folder of labels a word is no need.
            stem = stem_of(path)
            for name in {stem, stem.casefold(), *label_names(path)}:
                pool.setdefault(name, []).append(path)
    claims: dict[Path, tuple[int, list[Path]]] = {}
    for image in images:
        names = [name for name in image_names(image) if name in pool]
        rank = image_names(image).index(names[0]) if names else 0
        files = list(pool[names[0]]) if names else []
        files += [listed[image.name]] if listed.get(image.name) not in (None, *files) else []
        claims[image] = (rank, files)
    claimants: dict[Path, list[Path]] = {}
    for image, (_, files) in claims.items():
        for path in files:
            claimants.setdefault(path, []).append(image)
    first = {path: min(claims[i][0] for i in owners) for path, owners in claimants.items()}
    shared = set(listed.values())
    labels: Labels = {}
    doubts = {}
    for image, (rank, files) in claims.items():
        mine = [path for path in files if first[path] == rank or path in shared]
        segs = [path for path in mine if path.name.endswith(SEG_ENDING)]
        if segs:
            mine = [p for p in mine if p in segs or not p.stem.lower().endswith("_cp_masks")]
        owners = {i for path in mine if path not in shared for i in claimants[path]}
        rivals = [i for i in owners if claims[i][0] == rank]
        labels[image] = tuple(mine[:1])
        if len(mine) > 1:
            doubts[image] = f"several files of labels are beside it: {_list(mine)}; keep one"
        elif len(rivals) > 1:
            told = f"{mine[0].name} could belong to several images: {_list(rivals)}"
            doubts[image] = f"{told}; keep one of them"
    return labels, doubts


def _labels_of_only(named: Sequence[Path], folders: Sequence[Path]) -> tuple[Path, ...]:
    """Return the labels of the only image in a folder, none of which is named like it."""
    inside = [path for folder in folders for path in files_in(folder)]
    singles = [path for path in named if path.suffix.lower() == ".roi"]
    singles = singles or [path for path in inside if path.suffix.lower() == ".roi"]
    wordy = [path for path in named if "" in label_names(path)]
    wordy = wordy or [path for path in inside if _is_roi_set(path) and "" in label_names(path)]
    wordy = wordy or [path for path in named if _ROI_SET.match(path.name)]
    objects = [path for path in inside if is_image_name(path) and not is_prediction(path)]
    if singles or len(wordy) == 1:
        return tuple(singles or wordy)
    return tuple(objects) if len(objects) > 1 else ()


def _rois_in_folders(folder: Path, images: Sequence[Path]) -> Labels:
    """Return the `.roi` files of those images beside which they lie in a folder of the name."""
    named = {name: image for image in images for name in image_names(image)}
    found: Labels = {}
    for place in folders_in(folder) if named else ():
        owners = [named[name] for name in label_names(place) if name in named]
        rois = tuple(p for p in files_in(place) if p.suffix.lower() == ".roi") if owners else ()
        found |= {owners[0]: rois} if rois else {}
    return found


def _is_roi_set(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and holds_rois(path) and not is_prediction(path)


def _complain(path: Path, kind: str, images: Sequence[Path]) -> str:
    """Say which image was looked for."""
    what = "is named as labels" if kind == "labels" else "holds ROIs"
    if kind == "coco":
        names = ", ".join(look_into(path)[1][:3])
        return f"{what}, but the images that it lists are not there: {names}"
    name = label_names(path)[0]
    if not name and len(images) > 1:
        return f"{what}, but not of which of {len(images)} images: name it like one of them"
    return f"{what}, but its image is not there: looked for {name or 'image'}.*"


def _list(paths: Iterable[Path]) -> str:
    return ", ".join(sorted(path.name for path in paths))
