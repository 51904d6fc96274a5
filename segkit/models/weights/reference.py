"""Does an imported network compute what its author's program computed? Compared with a recorded input and output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from segkit.system.errors import SegkitError, first_line

TOLERANCE = 1e-4
"""Absolute, and relative beside large logits: libraries add up in different orders."""
OTHER = {"concat": {"skip_first": "up_first", "up_first": "skip_first"}, "final": {"sigmoid": "none", "none": "sigmoid"}}

Build = Callable[[Mapping[str, Any]], nn.Module]
"""The network with its weights, from a config node."""


@dataclass(frozen=True)
class Reference:
    path: Path
    input: Tensor  # (B, C, *S) float32
    output: Tensor  # (B, n_outputs, *s) float32

    @classmethod
    def read(cls, path: Path) -> Reference:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(np.asarray(arrays[name], np.float32)) for name in ("input", "output")}
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            way = "write it with  numpy.savez(FILE, input=..., output=...)"
            raise SegkitError(f"reference={path} cannot be read as arrays input and output: {error};   {way}") from error
        return cls(path, found["input"], found["output"])

    def difference(self, network: nn.Module) -> float:
        """The largest one over the tolerance of its place; infinite where the shapes differ."""
        with torch.no_grad():
            out = network.eval()(self.input)
        if out.shape != self.output.shape:
            return float("inf")
        if out.isnan().any():
            raise SegkitError(f"reference={self.path}: the network returns NaN for its input")
        return float(((out - self.output).abs() / (TOLERANCE * (1 + self.output.abs()))).max())

    def check(self, build: Build, node: Mapping[str, Any]) -> float:
        """The largest difference from what the network of `node` returns; SegkitError where it is not the same.

        Then the other order of concatenation and the other last activation are tried, to say what is wrong.
        """
        try:
            found = self.difference(build(node))
        except RuntimeError as error:
            reason = first_line(error)
            raise SegkitError(f"reference={self.path}: the network does not take its input {tuple(self.input.shape)}: {reason}") from error
        if found <= 1:
            return found * TOLERANCE
        raise SegkitError(f"reference={self.path} does not agree, nothing is written: {self._what_fits(build, node, found)}")

    def _what_fits(self, build: Build, node: Mapping[str, Any], found: float) -> str:
        other = {key: OTHER[key][node[key]] for key in OTHER if node.get(key) in OTHER[key]}
        alone = [{key: value} for key, value in other.items()]
        for change in (*alone, other):
            if change and self.difference(build({**node, **change})) <= 1:
                return "; ".join(_said(key, node[key], value) for key, value in change.items())
        return f"the largest difference is {found * TOLERANCE:.2g}" if found < float("inf") else "the output has another shape"


def _said(key: str, given: str, fits: str) -> str:
    if key == "concat":
        return f"the weights fit {given} by shape, not by meaning: with {fits} they give the reference"
    kind = {"sigmoid": "probabilities", "none": "logits"}
    return f"its output holds {kind[fits]}, where the network gives {kind[given]} (final={given}); with final={fits} it agrees"
