"""Viewers' segment names and numbers become protocol values, or are refused in words."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from apps.annotation.label_values import in_protocol_values, label_info_of
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import LabelError
from tests.conftest import OBLIQUE, label_of


def mapped(protocol: Protocol, label: Volume, *entries: tuple[str, int | None]) -> Volume:
    info = [{"name": name} if index is None else {"name": name, "idx": index} for name, index in entries]
    return in_protocol_values(protocol, label, label_info_of({"label_info": info}))


def only(*values: int) -> Volume:
    array = np.zeros(OBLIQUE.shape_ZYX, dtype=np.uint8)
    for row, value in enumerate(values):
        array[2, row, 1:4] = value
    return Volume(array_ZYX=array, geometry=OBLIQUE)


def test_segments_in_the_protocols_order_stay_as_they_are(protocol: Protocol) -> None:
    label = label_of()
    assert mapped(protocol, label, ("anterior", 1), ("posterior", 2)) is label


def test_without_label_info_the_values_are_the_protocols(protocol: Protocol) -> None:
    label = label_of()
    assert in_protocol_values(protocol, label, label_info_of({})) is label


def test_segments_in_another_order_are_told_apart_by_name(protocol: Protocol) -> None:
    label = label_of()
    swapped = mapped(protocol, label, ("posterior", 1), ("anterior", 2)).array_ZYX
    np.testing.assert_array_equal(swapped == 2, label.array_ZYX == 1)
    np.testing.assert_array_equal(swapped == 1, label.array_ZYX == 2)


def test_values_with_gaps_in_the_protocol_are_reached_by_name(protocol: Protocol) -> None:
    anterior, posterior = protocol.structures
    gapped = replace(protocol, structures=(anterior, replace(posterior, value=7)))
    found = mapped(gapped, only(1, 2), ("anterior", 1), ("posterior", 2)).array_ZYX
    assert sorted(np.unique(found)) == [0, 1, 7]


def test_a_hidden_background_segment_does_not_shift_the_others(protocol: Protocol) -> None:
    """3D Slicer leaves the background out of the file but counts it in idx."""
    label = label_of()
    assert mapped(protocol, label, ("anterior", 2), ("posterior", 3)) is label


def test_numbers_that_are_the_protocols_are_taken_where_counting_cannot_be_meant(protocol: Protocol) -> None:
    label = only(2)
    assert mapped(protocol, label, ("posterior", 2)) is label


def test_a_segment_without_voxels_may_have_any_name(protocol: Protocol) -> None:
    label = only(1)
    assert mapped(protocol, label, ("anterior", 1), ("Segment_2", 2)) is label


@pytest.mark.parametrize(
    ("values", "entries", "words"),
    [
        ((1, 2), [("posterior", 2), ("anterior", 1)], "could mean two things"),
        ((1, 2), [("posterior", 2), ("anterior", 3)], "could mean two things"),
        ((1, 3), [("anterior", 1), ("posterior", 2)], r"does not name: \[3\]"),
        ((1, 2), [("anterior", 1), ("tumour", 2)], "segments the protocol does not: 'tumour'"),
        ((1, 2), [("posterior", 1), ("posterior", 2)], "the same name"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(
    protocol: Protocol, values: tuple[int, ...], entries: list[tuple[str, int]], words: str
) -> None:
    with pytest.raises(LabelError, match=words):
        mapped(protocol, only(*values), *entries)


@pytest.mark.parametrize("info", ["anterior", [1], [{"idx": 1}], [{"name": 5}], [{"name": "anterior", "idx": "1"}]])
def test_a_label_info_of_another_shape_is_refused(info: Any) -> None:
    with pytest.raises(LabelError, match="label_info"):
        label_info_of({"label_info": info})
