"""GeoJSON (RFC 7946) as QuPath reads and writes it: a Feature for each ROI, in pixels.

Polygons go along pixel edges, with holes; ROIs of several parts are MultiPolygons. Image, scale
and group are kept in the member `fluxseg` of the collection, which other programs ignore.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fluxseg.data.recording import Recording, annotated_masks, pixel_size
from fluxseg.errors import RecordingError
from fluxseg.formats.finite import finite_image
from fluxseg.formats.json_files import check_mask_count, read_image_for, read_json_file
from fluxseg.formats.metadata import describe_origin, plain_text, read_origin
from fluxseg.formats.npy import naming_file
from fluxseg.formats.pixels import write_image_tiff
from fluxseg.formats.polygons import fill_polygons, group_rings, trace_polygons
from fluxseg.io.files import write_json

EXTRA = "fluxseg"


def is_geojson(values: Any) -> bool:
    """Tell whether a JSON value is GeoJSON with features."""
    if isinstance(values, list):
        return bool(values) and all(_is_feature(value) for value in values[:10])
    return isinstance(values, dict) and values.get("type") in ("FeatureCollection", "Feature")


def read_geojson(path: Path | str, image: Path | str | None = None) -> Recording:
    """Read ROIs from GeoJSON with the image that they belong to.

    Args:
        path: a FeatureCollection, a Feature, or a list of Features.
        image: image file; None looks for one named like the file.

    Returns:
        The recording; features other than polygons are left out, and named in the remarks.

    Raises:
        RecordingError: naming the file and the feature, if it cannot be used.
    """
    path = Path(path)
    values = read_json_file(path)
    extra: Mapping[str, Any] = {}
    if isinstance(values, dict) and isinstance(values.get(EXTRA), dict):
        extra = values[EXTRA]
    with naming_file(path):
        features = _features(values)
    pixels, facts = read_image_for(path, image, str(extra.get("image", "")))
    shape = (pixels.shape[0], pixels.shape[1])
    remarks = []
    masks, names = [], []
    with naming_file(path):
        check_mask_count(len(features), shape)
        for number, feature in enumerate(features):
            name = _name(feature) or str(number)
            polygons = _polygons(feature, name)
            if polygons is None:
                remarks.append(f"{name} left out: it is no polygon")
                continue
            mask = np.zeros(shape, bool)
            for rings in polygons:
                mask |= fill_polygons(rings, shape)
            masks.append(mask)
            names.append(name)
        metadata, group, unnamed = read_origin(extra)
        if (scale := pixel_size(extra) or facts.get("um_per_px")) is not None:
            metadata["um_per_px"] = scale
        return Recording(
            id=plain_text(extra.get("id")) or path.stem,
            image=pixels,
            masks=np.array(masks, bool).reshape(-1, *shape),
            roi_ids=tuple(names),
            group=group,
            metadata=metadata,
            remarks=(*remarks, *unnamed),
        )


def write_geojson(path: Path | str, recording: Recording) -> tuple[str, ...]:
    """Write the ROIs of a recording as GeoJSON, with its image beside as `NAME.tif`.

    Args:
        path: file to write, by custom `NAME.geojson`.
        recording: with masks; they may overlap.

    Returns:
        Remarks on what was changed or left out.

    Raises:
        RecordingError: if the recording is not annotated.
        WorkdirError: if a file cannot be written.
    """
    path = Path(path)
    masks = annotated_masks(recording)
    image, changes = finite_image(recording.image)
    scale = pixel_size(recording.metadata)
    remarks = list(changes)
    features = []
    for mask, name in zip(masks, recording.roi_ids, strict=True):
        if not mask.any():
            remarks.append(f"{name} has no pixel and was left out")
            continue
        parts = group_rings(trace_polygons(mask))
        polygons = [[_closed(ring) for ring in rings] for rings in parts]
        single = len(polygons) == 1
        geometry = {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": polygons[0] if single else polygons,
        }
        properties = {"objectType": "annotation", "name": name}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    extra = {
        **describe_origin(recording),
        "image": path.with_suffix(".tif").name,
        "shape": list(recording.image.shape),
        "um_per_px": scale,
    }
    write_json(path, {"type": "FeatureCollection", "features": features, EXTRA: extra})
    write_image_tiff(path.with_suffix(".tif"), image, scale)
    return tuple(remarks)


def _closed(ring: np.ndarray) -> list[list[int]]:
    whole: list[list[int]] = ring.astype(int).tolist()
    return [*whole, whole[0]]


def _is_feature(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "Feature"


def _features(values: Any) -> list[dict[str, Any]]:
    found = values
    if isinstance(values, dict):
        found = [values] if _is_feature(values) else values.get("features")
    if not isinstance(found, list) or not all(_is_feature(feature) for feature in found):
        raise RecordingError("features", "must be a list of GeoJSON features")
    return found


def _name(feature: Mapping[str, Any]) -> str | None:
    properties = feature.get("properties")
    name = plain_text(properties.get("name")) if isinstance(properties, dict) else None
    return name or plain_text(feature.get("id"))


def _polygons(feature: Mapping[str, Any], name: str) -> list[list[np.ndarray]] | None:
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if not isinstance(geometry, dict) or kind not in ("Polygon", "MultiPolygon"):
        return None
    coordinates = geometry.get("coordinates")
    parts: Any = [coordinates] if kind == "Polygon" else coordinates
    try:
        polygons = [[np.array(r, np.float64).reshape(len(r), -1)[:, :2] for r in p] for p in parts]
        if not all(r.ndim == 2 and r.shape[1] == 2 for p in polygons for r in p):
            raise ValueError("a position needs x and y")
    except (TypeError, ValueError) as error:
        raise RecordingError(name, "its coordinates are not those of a polygon") from error
    if not all(np.isfinite(ring).all() for polygon in polygons for ring in polygon):
        raise RecordingError(name, "its coordinates are not finite")
    return polygons
