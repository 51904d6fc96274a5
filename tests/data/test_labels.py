"""What mask values mean, there and back."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.data.labels import IGNORE, MAX_CLASSES, LabelMap, counted, recoded, sided
from segkit.system.errors import SegkitError


def test_zero_and_255_become_zero_and_one_and_back() -> None:
    labels = LabelMap.of({0: "background", 255: "head"})
    raw = np.array([[0, 255], [255, 0]], np.uint8)
    classes, unknown = labels.encode(raw)
    assert classes.tolist() == [[0, 1], [1, 0]]
    assert unknown == ()
    assert np.array_equal(labels.decode(classes), raw)
    assert (labels.mode, labels.n_outputs, labels.classes) == ("binary", 1, ("head",))


def test_several_values_may_share_a_name_and_classes_keep_their_order() -> None:
    labels = LabelMap.of({0: "background", 4: "femur", 2: "hip", 3: "femur"})
    classes, _ = labels.encode(np.array([[0, 4, 2, 3]], np.uint8))
    assert classes.tolist() == [[0, 1, 2, 1]]
    assert labels.decode(classes).tolist() == [[0, 4, 2, 4]]
    assert (labels.mode, labels.n_outputs) == ("multiclass", 3)


def test_several_values_may_be_background() -> None:
    labels = LabelMap.of({0: "background", 1: "background", 2: "bone"})
    classes, unknown = labels.encode(np.array([[0, 1, 2]], np.uint8))
    assert classes.tolist() == [[0, 0, 1]]
    assert unknown == ()


def test_ignore_does_not_count() -> None:
    labels = LabelMap.of({0: "background", 1: "bone", 9: "ignore"})
    classes, unknown = labels.encode(np.array([[0, 1, 9]], np.uint8))
    assert classes.tolist() == [[0, 1, IGNORE]]
    assert unknown == ()
    assert labels.classes == ("bone",)
    assert labels.decode(classes).tolist() == [[0, 1, 9]]


def test_values_without_a_name_are_reported_and_never_become_background() -> None:
    classes, unknown = LabelMap.of({0: "background", 1: "bone"}).encode(np.array([[0, 7, 1, 3]], np.uint8))
    assert unknown == ("3", "7")
    assert classes.tolist() == [[0, IGNORE, 1, IGNORE]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32])
def test_masks_of_16_and_32_bits(dtype: type) -> None:
    labels = LabelMap.of({0: "background", 1000: "organ", 40000: "tumour"})
    raw = np.array([[0, 1000], [1000, 0]], dtype)
    raw[1, 1] = 40000
    classes, unknown = labels.encode(raw)
    assert classes.tolist() == [[0, 1], [1, 2]]
    assert unknown == ()
    assert np.array_equal(labels.decode(classes), raw)


def test_colours() -> None:
    labels = LabelMap.of({"#000000": "background", "#ff0000": "lung", "#00ff00": "heart"})
    raw = np.zeros((2, 2, 3), np.uint8)
    raw[0, 0], raw[1, 1], raw[0, 1] = (255, 0, 0), (0, 255, 0), (1, 2, 3)
    classes, unknown = labels.encode(raw)
    assert classes.tolist() == [[1, IGNORE], [0, 2]]
    assert unknown == ("#010203",)
    classes[0, 1] = 0
    raw[0, 1] = 0
    assert np.array_equal(labels.decode(classes), raw)


def test_overlapping_classes_have_one_output_each() -> None:
    labels = LabelMap.of({"ribs": "ribs", "left clavicle": "clavicle", "right clavicle": "clavicle"}, overlap=True)
    assert (labels.classes, labels.mode, labels.n_outputs) == (("ribs", "clavicle"), "multilabel", 2)


def test_a_map_survives_being_saved() -> None:
    for labels in (LabelMap.of({0: "background", 7: "a", 3: "b"}), LabelMap.of({"x": "y"}, overlap=True)):
        assert LabelMap.from_dict(labels.as_dict()) == labels


def test_maps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(SegkitError, match="names no structure"):
        LabelMap.of({0: "background"})
    with pytest.raises(SegkitError, match="names no background"):
        LabelMap.of({0: "skin", 1: "bone"})


def test_distinct_values() -> None:
    assert [found.tolist() for found in counted(np.array([[3, 0], [3, 255]], np.uint8))] == [[0, 3, 255], [1, 2, 1]]
    assert [found.tolist() for found in counted(np.array([-5, 70000, -5]))] == [[-5, 70000], [2, 1]]


def test_an_all_black_mask_is_background_in_a_colour_map() -> None:
    """Readers give it back as grey, since its three channels are equal."""
    labels = LabelMap.of({"#000000": "background", "#ff0000": "head"})
    classes, unknown = labels.encode(np.zeros((3, 4), np.uint8))
    assert not unknown
    assert (classes == 0).all()
    mixed = LabelMap.of({"0": "background", "#ff0000": "head"})
    assert mixed.decode(np.array([[0, 1]], np.uint8)).tolist() == [[[0, 0, 0], [255, 0, 0]]]


@pytest.mark.parametrize(
    ("classes", "name"), [(("sacrum", "left_ilium"), "left_ilium"), (("kidney R",), "kidney R"), (("bright", "upright"), "")]
)
def test_structures_that_have_a_side_are_known(classes: tuple[str, ...], name: str) -> None:
    assert sided(classes) == name


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_negative_values_there_and_back(dtype: type) -> None:
    labels = LabelMap.of({-1: "ignore", 0: "background", 1: "organ"})
    raw = np.array([[-1, 0, 1]], dtype)
    classes, unknown = labels.encode(raw)
    assert (classes.tolist(), unknown) == ([[IGNORE, 0, 1]], ())
    assert labels.decode(classes).tolist() == raw.tolist()
    assert LabelMap.from_dict(labels.as_dict()) == labels


def test_254_classes_are_told_apart_and_more_are_refused() -> None:
    named = {0: "background"} | {k: f"c{k}" for k in range(1, MAX_CLASSES + 1)}
    raw = np.arange(MAX_CLASSES + 1).reshape(1, -1)
    classes, _ = LabelMap.of(named).encode(raw)
    assert len(np.unique(classes)) == MAX_CLASSES + 1
    assert IGNORE not in classes
    with pytest.raises(SegkitError, match="names 255 classes; at most 254"):
        LabelMap.of(named | {300: "one more"})
    assert len(LabelMap.of({f"p{k}": f"c{k}" for k in range(400)}, overlap=True).classes) == 400


@pytest.mark.parametrize("plain", [{}, {"values": {"0": "background", "1": "a"}, "overlap": "text"}, {"values": ["a"], "overlap": False}])
def test_a_damaged_map_of_a_checkpoint_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises(SegkitError, match="labels are not a table"):
        LabelMap.from_dict(plain)


@pytest.mark.parametrize("values", [[0, 3, 255], [-7, 0, 70000], [0, 2**40]])
def test_recoding_does_not_depend_on_the_range(values: list[int]) -> None:
    raw = np.array([values, values[::-1]])
    codes = np.array([5, 6, 7][: len(values)], np.uint8)
    assert recoded(raw, *counted(raw)[:1], codes).tolist() == [codes.tolist(), codes.tolist()[::-1]]
