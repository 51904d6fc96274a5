"""The metadata of a checkpoint, and their schema: all of it is checked before anything is built from it.

A checkpoint may come from a stranger, or from a failing disk. So what it says about itself is held to types and bounds here, and
to its own weights in `fitting.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from segkit.config import messages, validate
from segkit.config.schema import NotNegative, Positive, Strict, Train
from segkit.data.labels import LabelMap
from segkit.system.errors import Problem, ProblemsFound, SegkitError, of_file
from segkit.system.plain import excess

METADATA_KEY = "segkit"
MOST_CHANNELS = 4096
LARGEST = 2**32 - 1
"""Of raw values in masks and images."""
OPTIONAL = ("test", "excluded")
"""Subsets that a split need not have."""
UNUSABLE = "has a config that cannot be used"


def _printable(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > 200:
        raise ValueError(f"needs a name of 1 to 200 printable characters, got {name[:60]!r}")
    return name


ClassName = Annotated[str, AfterValidator(_printable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Labels(Strict):
    """`LabelMap.as_dict`."""

    values: Annotated[dict[str, ClassName], Field(min_length=1)]
    overlap: bool

    @model_validator(mode="after")
    def _can_be_in_a_mask(self) -> Labels:
        for raw in () if self.overlap else self.values:
            digits = raw.removeprefix("#") if len(raw) == 7 else ""
            color = bool(digits) and set(digits.lower()) <= set("0123456789abcdef")
            number = raw.removeprefix("-")
            if not (raw.startswith("#") and color) and not (number.isascii() and number.isdecimal() and int(number[:20]) <= LARGEST):
                raise ValueError(f"maps {raw[:60]!r}, which is neither a whole number up to {LARGEST} nor a color #rrggbb")
        return self


class Calibrated(Strict):
    """What `segkit calibrate` has stored."""

    n: Annotated[int, Field(ge=0)] = 0
    kept: Annotated[list[str], Field(default_factory=list)]


class Card(Strict):
    """The schema of `Metadata` in a file; `config` has its own, and `split` holds file names, which need not be Unicode."""

    config: dict[str, Any]
    labels: Labels
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    intensity_max: Annotated[Positive, Field(le=LARGEST, alias="top")]
    mean: list[Finite]
    sd: list[Annotated[NotNegative, Field(allow_inf_nan=False)]]
    data_root: str
    data_fingerprint: str
    is_phantom: bool
    precision: Literal["32", "bf16", "16"]
    versions: dict[str, str]
    score: Annotated[dict[str, int | float], Field(default_factory=dict)]
    calibration: Annotated[Calibrated, Field(default_factory=dict)]
    format: Literal[1]
    dims: Literal[2, 3] = 2
    dtypes: Annotated[list[Literal["uint8", "uint16", "float32"]], Field(default_factory=list)]

    @model_validator(mode="after")
    def _one_a_channel(self) -> Card:
        for name, values in (("mean", self.mean), ("sd", self.sd)):
            if len(values) != self.channels:
                raise ValueError(f"{name} holds {len(values)} numbers, not one for each of {self.channels} channels")
        return self


@dataclass(frozen=True)
class Metadata:
    """The metadata of a checkpoint, as plain data; under the key `segkit` in the file.

    Made by `training/train.py`, and written with every checkpoint by `on_save_checkpoint` of `training/module.py`.

    Args:
        config: the validated config of the training: architecture, geometry, thresholds, metric.
        labels: classes and their raw values, as `LabelMap.as_dict` gives them.
        channels: channels of the images.
        intensity_max: largest value of 16-bit images that scale=max divides by; stored as `top`.
        mean: of each channel, in unit scale.
        sd: of each channel, in unit scale.
        split: ids of the cases of each subset.
        data_root: folder of the training data.
        data_fingerprint: hash of the training data.
        is_phantom: whether the training data are synthetic.
        precision: of the training, as the trainer names it.
        versions: of the packages that matter.
        score: the monitored metric on the validation cases when this checkpoint was written, and the epoch.
        calibration: what `segkit calibrate` chose, on how many validation cases.
        format: version of this layout.
        dims: 2 for images, 3 for volumes.
        dtypes: types of numbers of the training images, as they are read; empty where they are not known.
    """

    config: dict[str, Any]
    labels: dict[str, Any]
    channels: int
    intensity_max: int
    mean: list[float]
    sd: list[float]
    split: dict[str, Any]
    data_root: str
    data_fingerprint: str
    is_phantom: bool
    precision: str
    versions: dict[str, str]
    score: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    format: int = 1
    dims: int = 2
    dtypes: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Metadata:
        """Raises ProblemsFound with all that the schema refuses."""
        card, problems = messages.fit(Card, {key: value for key, value in plain.items() if key != "split"})
        split = plain.get("split")
        problems += _wrong_ids(split)
        if card is None or problems:
            raise ProblemsFound([replace(problem, fix="") for problem in problems], "it is opened")
        return cls(**card.model_dump(exclude_unset=True), split=dict(split or {}))

    def train_config(self, allow: Sequence[str] = ()) -> Train:
        return validate.opened(self.config, allow)

    def label_map(self) -> LabelMap:
        return LabelMap.from_dict(self.labels)

    def as_dict(self) -> dict[str, Any]:
        return {"top" if key == "intensity_max" else key: value for key, value in asdict(self).items()}


def _wrong_ids(split: Any) -> list[Problem]:
    """What is wrong with the ids by subset. Further keys say how the split was made."""
    if too_much := excess(split):
        return [Problem("split", too_much)]
    subsets = split if isinstance(split, dict) else {}
    lists = {name: subsets.get(name, () if name in OPTIONAL else None) for name in ("train", "val", *OPTIONAL)}
    wrong = [name for name, ids in lists.items() if not isinstance(ids, list | tuple) or not all(isinstance(one, str) for one in ids)]
    return [Problem(f"split.{name}", "needs a list of ids (text)") for name in wrong]


def read_metadata(path: Path, content: Mapping[str, Any]) -> Metadata:
    """Return the metadata in the content of a checkpoint. SegkitError, which names the file and the field, where they are damaged."""
    if METADATA_KEY not in content:
        raise SegkitError(
            f"{path} was written by another program: it has no segkit metadata (it holds {', '.join(list(map(str, content))[:6])}).\n"
            "  segkit evaluate and predict need a checkpoint of segkit train"
        )
    plain = content[METADATA_KEY]
    if not isinstance(plain, dict):
        raise SegkitError(f"{path} has damaged metadata: they are a {type(plain).__name__}, not keys and values")
    if plain.get("format") != 1:
        raise SegkitError(f"{path} has metadata format {str(plain.get('format'))[:60]}; this segkit reads format 1: update segkit")
    try:
        metadata = Metadata.from_dict(plain)
        metadata.label_map()
    except SegkitError as error:
        raise of_file(path, "has damaged metadata", error) from error
    return metadata


def read_config(path: Path, metadata: Metadata, allow: Sequence[str] = ()) -> Train:
    """Return the validated config in the metadata of a checkpoint. SegkitError that names the file and the key."""
    try:
        return metadata.train_config(allow)
    except SegkitError as error:
        raise of_file(path, UNUSABLE, error) from error


def check_structure(path: Path, metadata: Metadata) -> None:
    """Raise SegkitError unless the config in the metadata has the sections of a training; its targets may be anybody's."""
    _, problems = validate.fit_sections(metadata.config)
    if problems:
        raise of_file(path, UNUSABLE, ProblemsFound(problems))
