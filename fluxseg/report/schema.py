"""What the files of a run hold, as far as the report shows it: their schema."""

from typing import Annotated, Any

import msgspec

from fluxseg.io.names import is_plain_name

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Confusion = tuple[tuple[Count, Count], tuple[Count, Count]]
Scores = dict[str, float | None]
Intervals = dict[str, tuple[float | None, float | None] | None]


class _DataSplit(msgspec.Struct):
    recordings: int
    groups: int
    crops: int
    neuron_share: float | None


class _LeftOut(msgspec.Struct):
    key: str
    reason: str


class _Remark(msgspec.Struct):
    key: str
    remark: str


class _Straddling(msgspec.Struct):
    first: str
    second: str
    similarity: float
    splits: list[str]


class DataFile(msgspec.Struct):
    """What the report shows of `data.json`."""

    source: dict[str, Any]
    n_files: int
    n_used: int
    left_out: list[_LeftOut]
    split_by: str
    leaks: bool
    splits: dict[str, _DataSplit]
    remarks: list[_Remark] = []
    moved: list[str] = []
    straddling: list[_Straddling] = []


class _RecordingRow(msgspec.Struct):
    id: str
    key: str
    group: str
    scores: Scores
    confusion: Confusion


class _ObjectCounts(msgspec.Struct):
    n_true: int
    n_predicted: int


class _ObjectRow(msgspec.Struct):
    key: str
    scores: Scores


class _Objects(msgspec.Struct):
    scores: Scores
    intervals: Intervals
    counts: _ObjectCounts
    threshold: float = 0.5
    min_confidence: float = 0.0
    chosen_on: str | None = None
    distance_unit: str | None = "px"
    recordings: list[_ObjectRow] = []


class _Bin(msgspec.Struct):
    pixels: int
    low: float | None
    high: float | None
    confidence: float | None
    share: float | None


class _Reliability(msgspec.Struct):
    scores: Scores
    intervals: Intervals
    curve: list[_Bin]


class _Calibration(msgspec.Struct):
    confidence: float
    before: _Reliability
    after: _Reliability


class _Split(msgspec.Struct):
    loss: float | None
    confusion: Confusion
    scores: Scores
    intervals: Intervals
    confidence: float
    n_groups: int
    n_recordings: int
    recordings: list[_RecordingRow]
    objects: _Objects | None = None
    calibration: _Calibration | None = None


class _Checkpoint(msgspec.Struct):
    epoch: int
    step: int
    monitor: str | None
    value: float | None


class _Point(msgspec.Struct):
    temperature: float
    threshold: float
    chosen_on: str | None


class _Origin(msgspec.Struct):
    name: str


class _FieldRow(msgspec.Struct):
    id: str
    scores: Scores


class _Part(msgspec.Struct):
    scores: Scores
    recordings: list[_FieldRow]


class _Tuning(msgspec.Struct):
    origin: _Origin = msgspec.field(name="from")
    verdict: str
    better: bool | None
    remarks: list[str]
    before: _Part | None
    after: _Part | None

    def __post_init__(self) -> None:
        if self.before and self.after and len(self.before.recordings) != len(self.after.recordings):
            raise ValueError("before and after are of other numbers of recordings")


class ScoresFile(msgspec.Struct):
    """What the report shows of `scores.json`."""

    splits: dict[str, _Split]
    checkpoint: _Checkpoint | None = None
    operating_point: _Point | None = None
    finetune: _Tuning | None = None


class ExampleRow(msgspec.Struct):
    """A row of `examples.json`."""

    id: str
    split: str
    rank: str
    neuron_iou: float | None
    file: str
    key: str = ""

    def __post_init__(self) -> None:
        if not is_plain_name(self.file):
            # It becomes part of a path, which must not lead out of its folder.
            raise ValueError(f"{self.file!r:.200} is not a plain name")


class HistoryRow(msgspec.Struct):
    """What each line of `metrics.jsonl` must hold; scores and the loss stand beside it."""

    epoch: int
    step: int
