"""The keys of every command but `train`: what each may hold, in one model per command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import Field, create_model

from segkit.config.schema import (
    Accelerator,
    Data,
    Hash,
    Inference,
    Metric,
    PartName,
    PathText,
    Positive,
    Precision,
    Processes,
    Seed,
    Split,
    Strict,
    Train,
)


def optional(model: type[Strict]) -> type[Strict]:
    """`model` with None as the default of every key, which means: as in the checkpoint."""
    kinds = get_type_hints(model, include_extras=True)
    fields: dict[str, Any] = {name: (kinds[name] | None, None) for name in model.model_fields}
    return create_model(f"{model.__name__}Override", __base__=Strict, **fields)


if TYPE_CHECKING:
    DataOverride = Data
    InferenceOverride = Inference
else:
    DataOverride = optional(Data)
    InferenceOverride = optional(Inference)


class Hardware(Strict):
    """Where a checkpoint runs; None keeps what the training used."""

    accelerator: Accelerator
    precision: Precision | None
    threads: Literal["auto"] | Annotated[Processes, Field(gt=0)]


class PredictHardware(Hardware):
    devices: Positive = 1


class Trained(Strict):
    """The keys of every command that starts from trainings: a sweep, and the data."""

    sweep: str | None
    where: dict[str, Any] | None
    partial: bool
    allow_targets: list[str]
    data: DataOverride


class Calibrate(Trained):
    """`segkit calibrate`"""

    ckpt: PathText | None
    hardware: Hardware


class Member(Strict):
    """A member of a combination: a checkpoint, and the classes that it owns (None: all of its)."""

    ckpt: PathText
    labels: Annotated[list[str], Field(min_length=1)] | None = None


class FromCheckpoints(Trained):
    """The keys of a command that takes one checkpoint or several, and settings of inference."""

    ckpt: PathText | Annotated[list[PathText], Field(min_length=1)] | None
    members: dict[str, Member]
    merge: Literal["max_prob", "priority", "multilabel"]
    inference: InferenceOverride


class Evaluate(FromCheckpoints):
    """`segkit evaluate`"""

    masks: PathText | None
    metric: Metric | None = None
    subset: Literal["train", "val", "test", "all"]
    output: PathText | None
    hardware: Hardware


class Predict(FromCheckpoints):
    """`segkit predict`"""

    input: PathText | None
    output: PathText
    probabilities: bool
    overlays: bool
    palette: bool
    formats: list[str]
    overwrite: bool
    part: PartName | None = None
    hardware: PredictHardware


class Import(Train):
    """`segkit import`: the training config that the imported network's checkpoint is to carry, and where the network is."""

    weights: PathText
    sha256: Hash | None
    schema_: Annotated[str, Field(alias="schema")]
    key: str | None
    reference: PathText | None


class OfData(Strict):
    """The keys of every command that takes a data set alone."""

    seed: Seed
    allow_targets: list[str]
    data: Data


class Phantom(OfData):
    """`segkit phantom`"""

    output: PathText
    n: Positive


class Audit(OfData):
    """`segkit audit`"""

    output: PathText | None
    part: PartName | None = None
    split: Split


class Plan(OfData):
    """`segkit plan`"""

    name: str | None
    choice: str | None
    output: PathText
    overwrite: bool
    accelerator: Accelerator
    memory_gb: Annotated[float, Field(gt=0)] | None
    split: Split


class Cache(Strict):
    """`segkit cache`"""

    output_dir: PathText
    clear: bool


class Share(Strict):
    """`segkit share`"""

    ckpt: PathText
    output: PathText
    push: Annotated[str, Field(pattern="^[^/]+/[^/]+$")] | None
    private: bool


class Export(Strict):
    """`segkit export`"""

    ckpt: PathText
    format: Literal["onnx", "openvino", "torchscript", "pt2"]
    precision: Literal["fp32", "fp16", "int8"]
    output: PathText
    input: PathText | None
    n: Positive
    allow_targets: list[str]
    data: DataOverride


class Compare(Strict):
    """`segkit compare`"""

    runs: PathText | list[PathText]
    allow_targets: list[str]


class Report(Strict):
    """`segkit report`"""

    runs: PathText | list[PathText]
    output: PathText | None
    pdf: bool
    allow_targets: list[str]


class Models(Strict):
    """`segkit models`"""

    pattern: str | None
    arch: str
    size: Positive
    channels: Positive
    all: bool


class Tensorboard(Strict):
    """`segkit tensorboard`"""

    name: str | None
    port: Annotated[int, Field(gt=0, lt=65536)]
    host: str
    output_dir: PathText


class SweepResults(Strict):
    """`segkit sweep`"""

    words: str | list[str] | None
    output_dir: PathText
    storage: str | None
    all: bool


_NAMED = (Train, Evaluate, Predict, Calibrate, Import, Audit, Plan, Phantom, Cache, Share, Export, Compare, Report, Models, Tensorboard)
COMMANDS: dict[str, type[Strict]] = {**{model.__name__.lower(): model for model in _NAMED}, "sweep": SweepResults}
"""Name of a command -> the model of its keys."""
