"""Several checkpoints as one: ensembles with the same classes, and combinations in which each member owns some of them.

Members may differ in network, size and preprocessing: their probabilities meet on the grid of the image, to which each brings
them by linear interpolation; labels are never interpolated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import tee
from typing import Any, Literal, TypeVar

import numpy as np

from segkit.data.labels import BACKGROUND, IGNORE_NAME, Array, LabelMap
from segkit.inference.pipeline import attempt
from segkit.inference.postprocess import decide, postprocess, threshold_of
from segkit.inference.predictor import CheckpointPredictor, Image, Prediction, Predictor
from segkit.models.metadata import Metadata
from segkit.system.errors import SegkitError, nearest

T = TypeVar("T")
Merge = Literal["max_prob", "priority", "multilabel"]
"""max_prob: the likeliest of all owned classes, against the background as the product of the members' backgrounds; where a
member has a threshold, its probabilities are moved so that the threshold is 0.5. priority: the first member that claims a
pixel has it. multilabel: a plane a class, as its member decides, collisions stay."""


class JointPredictor(Predictor, ABC):
    """Several predictors as one: every image goes through all of them, one image at a time."""

    def __init__(self, predictors: Sequence[CheckpointPredictor], labels: LabelMap) -> None:
        self.predictors, self.labels = list(predictors), labels
        first = predictors[0]
        channels = {p.metadata.channels for p in predictors}
        dims = {p.metadata.dims for p in predictors}
        if len(channels) > 1 or len(dims) > 1:
            raise SegkitError(f"members take {sorted(channels)} channels and {sorted(dims)} dimensions; they must agree")
        self.config = first.config
        self.metadata = replace(first.metadata, labels=labels.as_dict(), split=common_split([p.metadata for p in predictors]))

    def predict_all(self, images: Iterable[Image]) -> Iterator[Prediction]:
        copies = self.copies(images)
        streams = [predictor.predict_all(copy) for predictor, copy in zip(self.predictors, copies, strict=True)]
        for parts in zip(*streams, strict=True):
            yield self.merged(parts)

    def attempts(self, images: Iterable[Image | Exception], n: int | None = None) -> Iterator[Prediction | Exception]:
        copies = self.copies(images)
        streams = [predictor.attempts(copy, n) for predictor, copy in zip(self.predictors, copies, strict=True)]
        for parts in zip(*streams, strict=True):
            failed = next((part for part in parts if isinstance(part, Exception)), None)
            yield attempt(self.merged, failed or [part for part in parts if isinstance(part, Prediction)])

    def copies(self, images: Iterable[T]) -> tuple[Iterator[T], ...]:
        """The images for each member."""
        for predictor in self.predictors:
            predictor.streams(2)  # counts its operations, by hooks on all modules, before another member is at work
        return tee(images, len(self.predictors))

    @abstractmethod
    def merged(self, parts: Sequence[Prediction]) -> Prediction:
        """One prediction from those of all members."""


class Ensemble(JointPredictor):
    """The mean of the probabilities of members with the same classes; thresholds and post-processing of the first."""

    def __init__(self, predictors: Sequence[CheckpointPredictor]) -> None:
        for other in predictors[1:]:
            if other.labels.classes != predictors[0].labels.classes or other.labels.overlap != predictors[0].labels.overlap:
                ours, theirs = (", ".join(p.labels.classes) for p in (predictors[0], other))
                raise SegkitError(f"ckpt: an ensemble needs the same classes everywhere, but there are {ours} and {theirs}")
        super().__init__(predictors, predictors[0].labels)

    def merged(self, parts: Sequence[Prediction]) -> Prediction:
        probs = reduce(np.add, (part.probs for part in parts)) / np.float32(len(parts))
        return replace(parts[0], probs=probs, mask=self.predictors[0].decide(probs, parts[0].pixel_mm))


@dataclass(frozen=True)
class Member:
    """A checkpoint and the classes that it owns; its other classes are left to other members."""

    name: str
    predictor: CheckpointPredictor
    owned: tuple[str, ...]

    def probs(self, prediction: Prediction) -> Array:
        """(owned, *S) float32"""
        first = int(self.predictor.labels.mode == "multiclass")
        return np.asarray(prediction.probs[[first + index for index in self._indices]])

    def claimed(self, prediction: Prediction) -> Array:
        """(owned, *S) bool: each class where its own decision, before any post-processing, finds it."""
        labels = self.predictor.labels
        return labels.planes(decide(prediction.probs, labels, self.predictor.decide.threshold))[self._indices]

    def rescaled(self, prediction: Prediction) -> Array:
        """`probs` rescaled so that the threshold is at 0.5; exclusive classes, of which the likeliest is taken, stay as they are."""
        probs = self.probs(prediction)
        if self.predictor.labels.mode == "multiclass":
            return probs
        limit = threshold_of(self.owned[0], self.predictor.decide.threshold)
        above = probs * (1 - limit)
        return np.asarray(above / (above + (1 - probs) * limit))

    @property
    def _indices(self) -> list[int]:
        return [self.predictor.labels.classes.index(name) for name in self.owned]


class Combination(JointPredictor):
    """Members that each own some classes, such as one network of the pelvis for bones 1, 3, 4 and one for bones 2, 5, 6."""

    def __init__(self, members: Sequence[Member], merge: Merge) -> None:
        check(members)
        self.members, self.merge = members, merge
        super().__init__([member.predictor for member in members], union(members, merge))
        data = self.config.data.model_copy(update={"source": common_source([p.config.data.source for p in self.predictors])})
        self.config = self.config.model_copy(update={"data": data})

    def merged(self, parts: Sequence[Prediction]) -> Prediction:
        pairs = list(zip(self.members, parts, strict=True))
        claims = [member.claimed(part) for member, part in pairs]
        mask = self.decided(pairs, claims)
        for member in self.members:
            steps: Sequence[Any] = member.predictor.decide.steps
            for step in steps:
                classes = [name for name in member.owned if step.classes is None or name in step.classes]
                mask = postprocess(mask, self.labels, [replace(step, classes=classes)], parts[0].pixel_mm)
        scores = self.scores([member.probs(part) for member, part in pairs])
        probs = scores if self.labels.overlap else scores / scores.sum(axis=0).clip(1e-6)
        claimants = np.sum([of_member.any(axis=0) for of_member in claims], axis=0)
        return replace(parts[0], mask=mask, probs=probs.astype(np.float32), collisions=int((claimants > 1).sum()))

    def decided(self, pairs: Sequence[tuple[Member, Prediction]], claims: Sequence[Array]) -> Array:
        """Class indices (*S), or planes (K, *S) where they overlap; uint8."""
        if self.merge == "max_prob":
            return np.asarray(self.scores([member.rescaled(part) for member, part in pairs]).argmax(axis=0), np.uint8)
        if self.merge == "multilabel":
            return self.in_order(claims).astype(np.uint8)
        mask = np.zeros(claims[0].shape[1:], np.uint8)
        for member, of_member in zip(self.members, claims, strict=True):
            for name, claimed in zip(member.owned, of_member, strict=True):
                mask[claimed & (mask == 0)] = self.labels.index(name)
        return mask

    def scores(self, of_members: Sequence[Array]) -> Array:
        """Scores of each class, (K, *S); where classes exclude each other, the background comes first, (1 + K, *S)."""
        of_classes = self.in_order(of_members)
        if self.labels.overlap:
            return of_classes
        free = [np.clip(1 - probs.sum(axis=0), 0, 1) for probs in of_members]
        return np.concatenate([reduce(np.multiply, free)[None], of_classes])

    def in_order(self, of_members: Sequence[Array]) -> Array:
        """Maps of each member's own classes, (owned, *S), in the order of all classes, (K, *S)."""
        named = {
            name: of_class
            for member, of_member in zip(self.members, of_members, strict=True)
            for name, of_class in zip(member.owned, of_member, strict=True)
        }
        return np.stack([named[name] for name in self.labels.classes])


def check(members: Sequence[Member]) -> None:
    for member in members:
        known = member.predictor.labels.classes
        for name in member.owned:
            if name not in known:
                hint = nearest(name, known) or f"available: {', '.join(known)}"
                raise SegkitError(f"members.{member.name}.labels: its checkpoint has no class {name}; {hint}")
    owners = Counter(name for member in members for name in member.owned)
    twice = [name for name, n in owners.items() if n > 1]
    if twice:
        both = " and ".join(member.name for member in members if twice[0] in member.owned)
        raise SegkitError(f"members {both} both own {twice[0]};   assign it with  members.NAME.labels=[…]")
    lost = [(member.name, name) for member in members for name in member.predictor.labels.classes if name not in owners]
    if lost:
        who, name = lost[0]
        raise SegkitError(f"no member owns {name}, which {who} was trained on;   assign it with  members.{who}.labels=[…,{name}]")


def union(members: Sequence[Member], merge: Merge) -> LabelMap:
    """All classes, in the order of their raw values; other members' classes are background to a member."""
    overlap = any(member.predictor.labels.overlap for member in members)
    if merge == "multilabel" or overlap:
        if merge != "multilabel":
            raise SegkitError(f"merge={merge} makes one map, but a member's classes overlap;   use  merge=multilabel")
        return LabelMap.of({name: name for member in members for name in member.owned}, overlap=True)
    values: dict[str, str] = {}
    for member in members:
        for raw, name in member.predictor.labels.values:
            kept = name if name in member.owned or name == IGNORE_NAME else BACKGROUND
            if values.get(raw, BACKGROUND) not in (BACKGROUND, kept) and kept != BACKGROUND:
                raise SegkitError(f"value {raw} is {values[raw]} to one member and {kept} to {member.name}; their data.labels must agree")
            values[raw] = kept if values.get(raw, BACKGROUND) == BACKGROUND else values[raw]
    numbers = all(raw.isdecimal() for raw in values)
    return LabelMap.of(dict(sorted(values.items(), key=lambda item: int(item[0]) if numbers else item[0])))


def common_source(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The source of the first member; where members read other labels of the same files, all of them."""
    merged = dict(sources[0])
    for key, value in merged.items():
        others = [source.get(key) for source in sources]
        if isinstance(value, list) and all(isinstance(other, list) for other in others):
            merged[key] = sorted({item for other in others for item in other or ()}, key=str)
    return merged


def common_split(members: Sequence[Metadata]) -> dict[str, Any]:
    """Validation and test cases are those that no member was trained on; training cases are those that any was trained on."""
    split = dict(members[0].split)
    seen = {case for member in members for case in member.split["train"]}
    for subset in ("val", "test"):
        split[subset] = [case for case in split[subset] if case not in seen and all(case in member.split[subset] for member in members)]
    return split | {"train": sorted(seen)}
