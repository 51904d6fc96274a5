"""Several checkpoints as one: ensembles that agree on the classes, and combinations in which each knows some of them.

Both behave as a `Predictor`. Members may differ in network, size and preprocessing: their probabilities meet on the grid of
the image, where each brings them by linear interpolation; labels are never interpolated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import tee
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segkit.checkpoint import Card
from segkit.data.labels import BACKGROUND, IGNORE_NAME, LabelMap
from segkit.errors import SegkitError, nearest
from segkit.inference.decide import decide
from segkit.inference.postprocess import postprocess
from segkit.inference.predictor import Image, Prediction, Predictor

Array = npt.NDArray[Any]
Merge = Literal["max_prob", "priority", "multilabel"]
"""max_prob: the likeliest of all owned classes, against the background as the product of the members' backgrounds.
priority: the first member that claims a pixel has it. multilabel: a plane a class, collisions stay."""


class Together(Predictor):
    """What ensembles and combinations share: every image goes through all members, one image at a time."""

    def __init__(self, predictors: Sequence[Predictor], labels: LabelMap) -> None:
        self.predictors, self.labels = list(predictors), labels
        first = predictors[0]
        channels = {p.card.channels for p in predictors}
        dims = {p.card.dims for p in predictors}
        if len(channels) > 1 or len(dims) > 1:
            raise SegkitError(f"members see {sorted(channels)} channels and {sorted(dims)} dimensions; they must agree")
        self.config, self.hardware = first.config, first.hardware
        self.card: Card = replace(first.card, labels=labels.as_dict(), split=common_split([p.card for p in predictors]))

    def predict_all(self, images: Iterable[Image]) -> Iterator[Prediction]:
        copies = tee(images, len(self.predictors))
        streams = [predictor.predict_all(copy) for predictor, copy in zip(self.predictors, copies, strict=True)]
        for parts in zip(*streams, strict=True):
            yield self.merged(parts)

    def merged(self, parts: Sequence[Prediction]) -> Prediction:
        raise NotImplementedError


class Ensemble(Together):
    """The mean of the probabilities of members with the same classes; thresholds and post-processing of the first."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
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
    """A checkpoint and the classes that it owns; the others that it knows are left to other members."""

    name: str
    predictor: Predictor
    owned: tuple[str, ...]

    def probs(self, prediction: Prediction) -> Array:
        """(1 + owned, *S): everything else, then each owned class."""
        labels = self.predictor.labels
        first = int(labels.mode == "multiclass")
        of_owned = prediction.probs[[first + labels.classes.index(name) for name in self.owned]]
        free = np.prod(1 - of_owned, axis=0) if labels.overlap else 1 - of_owned.sum(axis=0)
        return np.concatenate([np.clip(free, 0, 1)[None], of_owned])


class Combination(Together):
    """Members that each own some classes (source 000: bones 1, 3, 4 and bones 2, 5, 6)."""

    def __init__(self, members: Sequence[Member], merge: Merge) -> None:
        check(members)
        self.members, self.merge = members, merge
        super().__init__([member.predictor for member in members], union(members, merge))
        data = self.config.data.model_copy(update={"source": common_source([p.config.data.source for p in self.predictors])})
        self.config = self.config.model_copy(update={"data": data})

    def merged(self, parts: Sequence[Prediction]) -> Prediction:
        of_members = [member.probs(part) for member, part in zip(self.members, parts, strict=True)]
        claims = np.stack([probs.argmax(axis=0) > 0 for probs in of_members])
        owned = {name: probs[i] for member, probs in zip(self.members, of_members, strict=True) for i, name in enumerate(member.owned, 1)}
        scores = np.stack([owned[name] for name in self.labels.classes])
        if not self.labels.overlap:
            background = reduce(np.multiply, (probs[0] for probs in of_members))
            scores = np.concatenate([background[None], scores])
        mask = self.by_priority(of_members, claims) if self.merge == "priority" else decide_all(scores, self.labels)
        for member in self.members:
            steps = [limited(step, member.owned) for step in member.predictor.decide.steps]
            mask = postprocess(mask, self.labels, steps, parts[0].pixel_mm)
        probs = scores if self.labels.overlap else scores / scores.sum(axis=0).clip(1e-6)
        return replace(parts[0], mask=mask, probs=probs.astype(np.float32), collisions=int((claims.sum(axis=0) > 1).sum()))

    def by_priority(self, of_members: Sequence[Array], claims: Array) -> Array:
        mask = np.zeros(claims.shape[1:], np.uint8)
        for member, probs, claimed in zip(self.members, of_members, claims, strict=True):
            index = np.array([0, *(self.labels.classes.index(name) + 1 for name in member.owned)], np.uint8)
            mask = np.where((mask == 0) & claimed, index[probs.argmax(axis=0)], mask)
        return mask


def decide_all(scores: Array, labels: LabelMap) -> Array:
    """Class indices, also of a single class (against its background), or planes."""
    return decide(scores, labels, 0.5) if labels.overlap else scores.argmax(axis=0).astype(np.uint8)


def limited(step: Any, owned: Sequence[str]) -> Any:
    return replace(step, classes=[name for name in owned if step.classes is None or name in step.classes])


def check(members: Sequence[Member]) -> None:
    for member in members:
        known = member.predictor.labels.classes
        for name in member.owned:
            if name not in known:
                hint = nearest(name, known) or f"it knows {', '.join(known)}"
                raise SegkitError(f"members.{member.name}.labels: its checkpoint has no class {name}; {hint}")
    owners = Counter(name for member in members for name in member.owned)
    twice = [name for name, n in owners.items() if n > 1]
    if twice:
        both = " and ".join(member.name for member in members if twice[0] in member.owned)
        raise SegkitError(f"members {both} both own {twice[0]};   say who has it with  members.NAME.labels=[…]")


def union(members: Sequence[Member], merge: Merge) -> LabelMap:
    """All owned classes, in the order of their raw values; what nobody owns is background."""
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
    """Of the first member; where members read other labels of the same files, all of them."""
    merged = dict(sources[0])
    for key, value in merged.items():
        others = [source.get(key) for source in sources]
        if isinstance(value, list) and all(isinstance(other, list) for other in others):
            merged[key] = sorted({item for other in others for item in other or ()}, key=str)
    return merged


def common_split(cards: Sequence[Card]) -> dict[str, Any]:
    """Validation and test cases that no member was trained on; what any has seen is training."""
    split = dict(cards[0].split)
    seen = {case for card in cards for case in card.split["train"]}
    for side in ("val", "test"):
        split[side] = [case for case in split[side] if case not in seen and all(case in card.split[side] for card in cards)]
    return split | {"train": sorted(seen)}
