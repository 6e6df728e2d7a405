"""What the files of a run hold, as far as the report shows it: their schema."""

from typing import Annotated, Any, TypedDict

import msgspec

from fluxseg.io.names import is_plain_name

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Confusion = tuple[tuple[Count, Count], tuple[Count, Count]]
Number = float | None  # None where it is undefined or not finite
Scores = dict[str, Number]
Intervals = dict[str, tuple[Number, Number] | None]

# Tables whose entries must all be there.
_DataSplit = TypedDict(
    "_DataSplit", {"recordings": int, "groups": int, "crops": int, "neuron_share": Number}
)
_LeftOut = TypedDict("_LeftOut", {"key": str, "reason": str})
_Remark = TypedDict("_Remark", {"key": str, "remark": str})
_Straddling = TypedDict(
    "_Straddling", {"first": str, "second": str, "similarity": float, "splits": list[str]}
)
_ObjectCounts = TypedDict("_ObjectCounts", {"n_true": int, "n_predicted": int})
_ObjectRow = TypedDict("_ObjectRow", {"key": str, "scores": Scores})
_Bin = TypedDict(
    "_Bin", {"pixels": int, "low": Number, "high": Number, "confidence": Number, "share": Number}
)
_Reliability = TypedDict(
    "_Reliability", {"scores": Scores, "intervals": Intervals, "curve": list[_Bin]}
)
_Calibration = TypedDict(
    "_Calibration", {"confidence": float, "before": _Reliability, "after": _Reliability}
)
_RecordingRow = TypedDict(
    "_RecordingRow",
    {"id": str, "key": str, "group": str, "scores": Scores, "confusion": Confusion},
)
_Checkpoint = TypedDict(
    "_Checkpoint", {"epoch": int, "step": int, "monitor": str | None, "value": Number}
)
_Point = TypedDict("_Point", {"temperature": float, "threshold": float, "chosen_on": str | None})
_Origin = TypedDict("_Origin", {"name": str})
_FieldRow = TypedDict("_FieldRow", {"id": str, "scores": Scores})
_Part = TypedDict("_Part", {"scores": Scores, "recordings": list[_FieldRow]})


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


class _Objects(msgspec.Struct):
    scores: Scores
    intervals: Intervals
    counts: _ObjectCounts
    threshold: float = 0.5
    min_confidence: float = 0.0
    chosen_on: str | None = None
    distance_unit: str | None = "px"
    recordings: list[_ObjectRow] = []


class _Split(msgspec.Struct):
    loss: Number
    confusion: Confusion
    scores: Scores
    intervals: Intervals
    confidence: float
    n_groups: int
    n_recordings: int
    recordings: list[_RecordingRow]
    objects: _Objects | None = None
    calibration: _Calibration | None = None


class _Tuning(msgspec.Struct):
    origin: _Origin = msgspec.field(name="from")
    verdict: str
    better: bool | None
    remarks: list[str]
    before: _Part | None
    after: _Part | None

    def __post_init__(self) -> None:
        counts = {len(part["recordings"]) for part in (self.before, self.after) if part}
        if len(counts) > 1:
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
    neuron_iou: Number
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
