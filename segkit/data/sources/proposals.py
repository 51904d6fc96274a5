"""Rules that would pair the files of a folder, found in their names: what a message proposes, and what is taken where it is plain.

Files are told apart by a feature (a folder, or the beginning, the end or the whole of a name) that speaks of masks. Each pair of
features yields patterns, and every pattern is tried on all files, so that what is proposed is what the user will get.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from pathlib import Path, PurePosixPath

from segkit.data.sources.pairing import IMAGE_PARTS, MASK_PARTS, SPLITS, Rule
from segkit.system.shell import override

_MASK = re.compile(r"mask|label|segm|annot|truth|manual|target|lesion|contour|(?<![a-z])(gt|seg|roi|lbl|ann|msk|segs)(?![a-z])")
"""Words that speak of masks."""
MAX_FEATURES = 6
"""Features of each kind that are tried, the most frequent first."""
RARE = 0.05
"""What fewer files have, as a share of the most frequent feature of its kind, tells no masks apart."""
MOST = 0.8
"""Share of the names that a common beginning or end must have; a few stray files do not change a rule."""
FEWEST = 0.2
"""A rule that pairs a smaller share of the files is a coincidence."""
NUMBER = r"(?P<instance>(?:_\d+)?)"
"""Behind the name of a mask: further ones of the same image, such as `a_mask_1` beside `a_mask`."""
Feature = tuple[str, str]
"""Its kind (folder, start, end, name) and the text."""
Featured = tuple[Feature, set[int]]


@dataclass(frozen=True)
class Proposal:
    """Patterns of images and masks, and the files that they pair: indices into the names."""

    image: str
    mask: str
    pairs: frozenset[tuple[int, ...]]
    n: int
    n_files: int

    @property
    def is_plain(self) -> bool:
        """Whether every file is paired, one to one, and nothing has to be chosen."""
        chosen = re.search(r"\(\?P<(split|structure|instance)>", self.mask)
        image, mask = (speaks_of_masks(re.sub(r"\(.*?\)", "", text)) for text in (self.image, self.mask))
        return 2 * self.n == self.n_files and not chosen and mask and not image

    @property
    def line(self) -> str:
        return f"{override('data.source.image', self.image)} {override('data.source.mask', self.mask)}"

    @property
    def share(self) -> str:
        rest = self.n_files - sum(len(set(pair)) for pair in self.pairs)
        return f"{self.n} image{'s' * (self.n != 1)}" + (f", {rest} of {self.n_files} files stay alone" if rest else "")


def proposals(names: Sequence[str]) -> list[Proposal]:
    """The rules that pair some of the files, those that pair most first.

    Args:
        names: Paths below root, without extension.
    """
    found: dict[frozenset[tuple[int, ...]], Proposal] = {}
    for image, mask in dict.fromkeys(_patterns(names)):
        proposal = tried(names, image, mask)
        paired = sum(map(len, proposal.pairs))
        if paired > FEWEST * len(names) and (proposal.pairs not in found or _effort(proposal) < _effort(found[proposal.pairs])):
            found[proposal.pairs] = proposal
    ordered = sorted(found.values(), key=lambda one: (-sum(map(len, one.pairs)), _effort(one)))
    kept: list[Proposal] = []
    for one in ordered:  # what a rule pairs, another need not pair in part
        if not any(one.pairs < other.pairs for other in kept):
            kept.append(one)
    return kept


def _effort(proposal: Proposal) -> tuple[int, bool, bool, int]:
    """What a rule leaves to guess: the split and the structures, the folders; then its length."""
    image, mask = proposal.image, proposal.mask
    folders = [PurePosixPath(re.sub(r"\(.*?\)", "KEY", text)).parent.name for text in (image, mask)]
    return -len(re.findall(r"<(?:split|structure)>", mask)), "<id2>" in mask, not all(folders), len(image) + len(mask)


def tried(names: Sequence[str], image: str, mask: str) -> Proposal:
    """What two patterns pair. A file that fits the mask's is no image; several images of one id are no pair, unless they are channels."""
    of_image, of_mask = Rule.of(Path(), image, IMAGE_PARTS), Rule.of(Path(), mask, MASK_PARTS)
    images, masks = defaultdict(list), defaultdict(list)
    for i, name in enumerate(names):
        if found := of_mask.read(name):
            masks[found.id].append((found.part, i))
        elif found := of_image.read(name):
            images[found.id].append((found.part, i))
    both = {id_: (files, masks[id_]) for id_, files in images.items() if id_ in masks}
    sound = [files for files in both.values() if all(len({part for part, _ in some}) == len(some) for some in files)]
    pairs = frozenset(tuple(i for some in files for _, i in some) for files in sound)
    return Proposal(image, mask, pairs, len(pairs), len(names))


# features


def features(names: Sequence[str]) -> dict[Feature, set[int]]:
    """The files that have each feature."""
    found: dict[Feature, set[int]] = defaultdict(set)
    for i, name in enumerate(names):
        *folders, last = name.split("/")
        for folder in folders:
            found["folder", folder].add(i)
        if folders:
            found["name", last].add(i)
        if start := re.match(r"[^\W\d_]+(?=.)", last):
            found["start", start[0]].add(i)
        if end := re.search(r"(?<=.)[_\-. ]+\d*[^\W\d_][^\W_]*$|(?<=\d)[^\W\d_]+\d?$", last):
            found["end", end[0]].add(i)
    return {(kind, text): files for (kind, text), files in found.items() if len(files) > 1 or not re.search(r"\d", text)}


def speaks_of_masks(name: str) -> bool:
    """Whether the name of a file, folder or column says that it holds masks."""
    return _MASK.search(name.lower()) is not None


def _patterns(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Patterns of images and masks that are worth a try."""
    every = sorted(features(names).items(), key=lambda item: (-len(item[1]), item[0]))
    of_masks = [item for item in every if speaks_of_masks(item[0][1])] or [
        item for item in every if item[0][0] != "end" and not re.search(r"\d", item[0][1])
    ]
    for kind, write in _WRITERS.items():
        masks = _frequent([item for item in of_masks if item[0][0] == kind])
        images = _frequent([item for item in every if item[0][0] == kind and not speaks_of_masks(item[0][1])])
        for (_, mask), with_mask in masks:
            its = [names[i] for i in sorted(with_mask)]
            for image, with_image in (("", set(range(len(names)))), *((feature[1], having) for feature, having in images)):
                own = [names[i] for i in sorted(with_image - with_mask)]
                if own and image != mask:
                    yield from write(own, its, image, mask)
        if kind in _CHANNELS:
            yield from _channels(names, kind, [feature[1] for feature, _ in images], [feature[1] for feature, _ in masks])
        if kind == "folder":
            yield from _structures([feature[1] for feature, _ in masks], list(_patterns_of_folders(names, masks, images)))


def _frequent(items: Sequence[Featured]) -> list[Featured]:
    return [item for item in items if len(item[1]) >= RARE * len(items[0][1])][:MAX_FEATURES]


def _patterns_of_folders(names: Sequence[str], masks: Sequence[Featured], images: Sequence[Featured]) -> Iterator[tuple[str, str]]:
    for (_, mask), with_mask in masks:
        for (_, image), with_image in images:
            yield from _in_folders([names[i] for i in with_image - with_mask], [names[i] for i in with_mask], image, mask)


def _structures(folders: Sequence[str], written: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """`masks_heart/KEY` and `masks_lung/KEY`: a folder for each structure, whose names begin or end alike."""
    for start, end in dict.fromkeys(_apart(a, b) for a, b in combinations(folders, 2)):
        alike = [name for name in folders if name.startswith(start) and name.endswith(end) and len(name) > len(start + end)]
        if not speaks_of_masks(start + end):
            continue
        inner = "|".join(escaped(name[len(start) : len(name) - len(end)]) for name in sorted(alike))
        folder = f"{escaped(start)}(?P<structure>{inner}){escaped(end)}/"
        for image, mask in written:
            if mask.startswith(f"{escaped(alike[0])}/"):
                yield image, folder + mask.removeprefix(f"{escaped(alike[0])}/")


def _channels(names: Sequence[str], kind: str, images: Sequence[str], masks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`KEY_t1`, `KEY_t2` and `KEY_seg`: a file for each channel; also in a folder a case. Some case must have all of them."""
    if len(images) < 2:
        return
    key, between = _CHANNELS[kind]
    start = _apart(*sorted(images)[:: len(images) - 1])[0] if kind == "end" else ""
    inner = "|".join(escaped(name.removeprefix(start)) for name in sorted(images))
    if not all(name.startswith(start) for name in images):
        return
    for mask in masks:
        rule = f"{key}{between}{escaped(start)}(?P<channel>{inner})", f"{key}{between}{escaped(mask)}"
        if any(len(pair) > len(images) for pair in tried(names, *rule).pairs):
            yield rule


def _apart(a: str, b: str) -> tuple[str, str]:
    """The beginning and the end that two names share."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    while n and a[n - 1].isalnum() and not (a[n:][:1].isupper() and b[n:][:1].isupper()):
        n -= 1
    rest, other = a[n:][::-1], b[n:][::-1]
    m = next((i for i, (x, y) in enumerate(zip(rest, other, strict=False)) if x != y), min(len(rest), len(other)))
    while m and rest[m - 1].isalnum() and not rest[m - 1].isupper():
        m -= 1
    return a[:n], rest[:m][::-1]


# patterns of one pair of features


def _in_folders(images: Sequence[str], masks: Sequence[str], image: str, mask: str) -> Iterator[tuple[str, str]]:
    """`image/KEY` and `mask/KEY`, also within each subset of a split; and a folder a case, with a mask for each object or structure."""
    own, its = [_around(name, image) for name in images], [_around(name, mask) for name in masks]
    before, folder = (f"{escaped(name)}/" if name else "" for name in (image, mask))
    ours, theirs = _affixed([tail for _, tail in own], [tail for _, tail in its])
    yield f"{before}{ours}", f"{folder}{theirs}"
    parents = {PurePosixPath(head).name for head, _ in its}
    if len(parents) < 2:
        return
    if all(parent.lower() in SPLITS for parent in parents):
        subsets = {PurePosixPath(head).name for head, _ in own if PurePosixPath(head).name.lower() in SPLITS}
        split = f"(?P<split>{'|'.join(sorted(parents | subsets, key=lambda name: [*SPLITS].index(name.lower())))})/"
        yield f"{split}{before}{ours}", f"{split}{folder}{theirs}"
        return
    of_case = Counter(tail for _, tail in its)
    part = "structure" if all(n == len(parents) for n in of_case.values()) and len(of_case) > 1 else "instance"
    tails = [escaped(PurePosixPath(tail).name) for tail, n in Counter(tail for _, tail in own).most_common(2) if n > 1] or ["[^/]+"]
    for tail in tails:
        yield f"(?P<id>[^/]+)/{before}{tail}", f"(?P<id>[^/]+)/{folder}(?P<{part}>[^/]+)"


def _whole(images: Sequence[str], masks: Sequence[str], image: str, mask: str) -> Iterator[tuple[str, str]]:
    """`KEY/image` and `KEY/mask`, also `KEY/KEY` and `KEY/mask`."""
    if not image:
        yield "(?P<id>[^/]+)/(?P=id)", f"(?P<id>[^/]+)/{escaped(mask)}"
    else:
        for id_ in ("(?P<id>[^/]+)", "(?P<id>.+)"):
            yield f"{id_}/{escaped(image)}", f"{id_}/{escaped(mask)}"


def _within(images: Sequence[str], masks: Sequence[str], image: str, mask: str) -> Iterator[tuple[str, str]]:
    """A beginning and an end around the key, in names of one folder or of a folder a patient."""
    ours, theirs = _affixed([PurePosixPath(name).name for name in images], [PurePosixPath(name).name for name in masks])
    yield ours, theirs
    if any("/" in name for name in images):
        first = "(?P<id>[^/]+)/"
        yield first + ours.replace("?P<id>", "?P<id2>"), first + theirs.replace("?P<id>", "?P<id2>")
        yield ours.replace(".+", "[^/]+"), theirs.replace(".+", "[^/]+")
    if mask and not image and theirs.endswith(escaped(mask)):
        yield "(?P<id>.+)", f"(?P<id>.+){escaped(mask)}"
        if any(re.search(rf"{escaped(mask)}_\d+$", name) for name in images):
            yield "(?P<id>.+)", f"(?P<id>.+){escaped(mask)}{NUMBER}"


_CHANNELS = {"end": ("(?P<id>.+)", ""), "name": ("(?P<id>[^/]+)", "/")}
"""Kinds of features that may tell channels apart: the key, and what stands between it and the feature."""
_WRITERS: dict[str, Callable[[Sequence[str], Sequence[str], str, str], Iterator[tuple[str, str]]]] = {
    "folder": _in_folders,
    "name": _whole,
    "start": _within,
    "end": _within,
}


def _around(name: str, folder: str) -> tuple[str, str]:
    """What stands before and behind a folder of a path."""
    if not folder:
        return str(PurePosixPath(name).parent), PurePosixPath(name).name
    head, _, tail = f"/{name}".partition(f"/{folder}/")
    return head.lstrip("/"), tail


# beginnings and ends


def _affixed(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str]:
    """Patterns of names that a common beginning and end surround; what both sides share of these belongs to the key."""
    starts, ends = ([_shared(map(of, names)) for names in (images, masks)] for of in (_tokens, lambda name: _tokens(name)[::-1]))
    n = _same([start[::-1] for start in starts])
    starts = [start[: len(start) - n] for start in starts]
    n = _same([end[::-1] for end in ends])
    ends = [end[: len(end) - n] for end in ends]
    patterns = []
    for names, start, end in zip((images, masks), starts, ends, strict=True):
        before, behind = "".join(start), "".join(end[::-1])
        keys = [name.removeprefix(before).removesuffix(behind) for name in names if name.startswith(before) and name.endswith(behind)]
        patterns.append((escaped(before), all(key.isdecimal() for key in keys), escaped(behind)))
    key = r"(?P<id>\d+)" if all(is_number for _, is_number, _ in patterns) else "(?P<id>.+)"
    (before, _, behind), (its_before, _, its_behind) = patterns
    return f"{before}{key}{behind}", f"{its_before}{key}{its_behind}"


def shared_end(names: Sequence[str]) -> str:
    """The end that all names have in common, from a separator on."""
    tokens = _shared((_tokens(name)[::-1] for name in names), 1.0)
    while tokens and tokens[-1].isalnum():
        tokens = tokens[:-1]
    return "".join(reversed(tokens))


def escaped(text: str) -> str:
    """As `re.escape`, but a space and a hyphen stay as they are."""
    return re.sub(r"\\([ \-])", r"\1", re.escape(text))


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+|[\W_]", name)


def _shared(names: Iterable[list[str]], most: float = MOST) -> list[str]:
    """The tokens with which most names begin; one is left of each, and numbers alone are no part of it."""
    left: list[list[str]] = list(names)
    shared: list[str] = []
    n = len(left)
    while left := [name for name in left if len(name) > len(shared) + 1]:
        token, count = Counter(name[len(shared)] for name in left).most_common(1)[0]
        if count < most * n:
            break
        left = [name for name in left if name[len(shared)] == token]
        shared.append(token)
    while shared and shared[-1].isdecimal():
        shared.pop()
    return shared


def _same(ends: Sequence[Sequence[str]]) -> int:
    """How many tokens both sides share next to the key, up to the last that is no separator."""
    n = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))))
    while n and not ends[0][n - 1].isalnum():
        n -= 1
    return n
