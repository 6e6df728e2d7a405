"""Labels of simulated cells: exact ones, and such as people and automatic pipelines make."""

import dataclasses

import numpy as np

from fluxseg.simulation.fields import Field
from fluxseg.simulation.grids import Shape, patch_index, take_patches

OUTSIDE_UM = 0.6  # how far outside of the half-height outline annotators draw, um


@dataclasses.dataclass(frozen=True)
class LabelRules:
    """Which cells are labelled, and how; the defaults give exact labels of visible ones."""

    # Visibilities (see `Field`) below which a cell is background, and above which it is labelled;
    # between them it is ignored.
    visible: tuple[float, float] = (0.5, 1.2)
    # Shares of its radius: a cell whose outline is smaller than the first, as only its top or
    # bottom shows, is background; below the second it is at most ignored.
    least_section: tuple[float, float] = (0.0, 0.6)
    least_shown: float = 0.45  # so are cells of which other cells leave less than this share
    active_only: bool = False  # label active cells only; the others count as background
    missed: float = 0.0  # share of labelled cells that are left out, as background
    wider: tuple[float, float] = (0.0, 0.0)  # mean and SD of the error of the radius, over it
    # How far outlines of cells that the section cuts off their middle are drawn towards the whole
    # cell: 0 outlines what shows, 1 the cell's largest radius (exponent of the section).
    fuller: float = 0.0
    moved: float = 0.0  # SD of an outline's shift along each axis, over the radius
    merged: float = 0.0  # share of touching pairs that become one label
    border_um: float = 0.0  # cells whose centre is closer to the field's border are background

    def __post_init__(self) -> None:
        for name in ("visible", "least_section"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must rise, got {(low, high)}")


ALLEN = LabelRules(
    active_only=True, missed=0.08, wider=(0.0, 0.07), moved=0.08, merged=0.05, border_um=10.0
)
"""Rules that resemble the Allen Brain Observatory's automatic labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a field."""

    instances: np.ndarray  # `[H, W]` int32, 0 where no cell is labelled, else its number from 1
    ignore: np.ndarray  # `[H, W]` bool, true where a cell is too doubtful for a pixel to count
    cells: np.ndarray  # `[M]` int, which cell each label is (of merged ones, the first)
    corner: np.ndarray  # `[K, 2]` int, first row and column of each labelled cell's footprint
    footprint: np.ndarray  # `[K, P, P]` bool, all of it, whatever lies upon it
    number: np.ndarray  # `[K]` int, its label from 1

    def whole_masks(self) -> np.ndarray:
        """Return one mask for each label, `[M, H, W]` bool, that overlap where cells do."""
        height, width = self.instances.shape
        side = self.footprint.shape[1]
        masks = np.zeros((len(self.cells), height, width), bool)
        for (row, column), inside, number in zip(
            self.corner.tolist(), self.footprint, self.number.tolist(), strict=True
        ):
            top, left = max(row, 0), max(column, 0)
            part = inside[top - row : height - row, left - column : width - column]
            masks[number - 1, top : row + side, left : column + side] |= part
        return masks


def paint(shape: Shape, index: np.ndarray, inside: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Paint footprints onto an image; where several overlap, the one of least `order` shows.

    `index` (of `patch_index`), `inside` (bool) and `order` (float) are `[N, P, P]`. Returns `[H,
    W]` int32: 0, or the number of the footprint from 1.
    """
    side = index.shape[1]
    framed = np.zeros((shape[0] + 2 * side, shape[1] + 2 * side), np.int32)
    number = np.broadcast_to(np.arange(1, len(index) + 1)[:, None, None], index.shape)[inside]
    # Of values assigned to one pixel, the last stays.
    first = np.argsort(-order[inside], kind="stable")
    framed.reshape(-1)[index[inside][first]] = number[first]
    return framed[side:-side, side:-side]


def create_labels(field: Field, rules: LabelRules, rng: np.random.Generator) -> Labels:
    """Label a field by rules; `rng` is the source of their errors, not used if there are none."""
    count, shape = len(field.radius), field.image.shape
    index = patch_index((shape[0], shape[1]), field.corner, field.outline.shape[1])
    margin = 1 + OUTSIDE_UM / np.maximum(field.radius * field.section, 1.0)
    outline = field.outline
    if rules.fuller:
        margin = margin * np.maximum(field.section, 0.2) ** -rules.fuller
    if any(rules.wider) or rules.moved:
        margin = margin * np.maximum(1 + rng.normal(*rules.wider, count), 0.7)
    if rules.moved:
        outline = _move(outline, rng.normal(0, rules.moved, (count, 2)) * field.radius_px[:, None])
    inside = outline < margin[:, None, None].astype(np.float32)
    counted = np.ones(count, bool)
    if rules.active_only:
        counted &= field.active
    if rules.missed:
        counted &= rng.random(count) >= rules.missed
    if rules.border_um:
        counted &= field.border >= rules.border_um
    some, sure = (
        counted & (field.visibility >= visible) & (field.section >= section)
        for visible, section in zip(rules.visible, rules.least_section, strict=True)
    )
    chosen = np.flatnonzero(some)
    # Between two cells the border is half-way, a little nearer to the dimmer one.
    brightness = np.log(field.light[chosen]).astype(np.float32)[:, None, None]
    depth = outline[chosen] - np.float32(0.15) * brightness
    painted = paint((shape[0], shape[1]), index[chosen], inside[chosen], depth)
    area = np.bincount(painted.ravel(), minlength=len(chosen) + 1)[1:]
    there = take_patches(np.ones(shape, np.float32), index[chosen], 0.0)
    whole = (there * inside[chosen]).sum((1, 2))
    fine = sure[chosen] & (area >= np.maximum(rules.least_shown * whole, 1))
    number = np.zeros(len(chosen) + 1, np.int32)
    kept = np.flatnonzero(fine)
    number[1 + kept] = np.arange(1, len(kept) + 1)
    instances, cells = number[painted], chosen[kept]
    ignore = (painted > 0) & (instances == 0)
    labels = Labels(instances, ignore, cells, field.corner[cells], inside[cells], number[1 + kept])
    return _merge(labels, rules.merged, rng) if rules.merged else labels


def _move(outline: np.ndarray, shift: np.ndarray) -> np.ndarray:
    steps = np.rint(shift).astype(int).tolist()
    moved = [np.roll(patch, step, (0, 1)) for patch, step in zip(outline, steps, strict=True)]
    return np.array(moved, np.float32).reshape(outline.shape)


def _merge(labels: Labels, share: float, rng: np.random.Generator) -> Labels:
    instances, cells = labels.instances, labels.cells
    across = np.stack([instances[:, :-1], instances[:, 1:]], -1).reshape(-1, 2)
    down = np.stack([instances[:-1], instances[1:]], -1).reshape(-1, 2)
    both = np.sort(np.concatenate([across, down]), 1)
    both = np.unique(both[(both[:, 0] > 0) & (both[:, 0] != both[:, 1])], axis=0)
    target = np.arange(len(cells) + 1)
    for first, second in both[rng.random(len(both)) < share].tolist():
        target[target == target[second]] = target[first]
    used = np.unique(target)
    number = np.searchsorted(used, target).astype(np.int32)
    return dataclasses.replace(
        labels, instances=number[instances], cells=cells[used[1:] - 1], number=number[labels.number]
    )
