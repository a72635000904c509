"""Outlines of several labels in one file: every label can be had back from it, and it says nothing else."""

import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.review.outline_files import outline_file, outlines_of
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Box, Label, LabelError, Point
from tests.conftest import OBLIQUE, label_of


def label(*layers: Any, geometry: Geometry = OBLIQUE, **findings: Any) -> Label:
    layers_LZYX = np.array(layers, np.uint8).reshape(-1, *geometry.shape_ZYX)
    return Label(geometry=geometry, layers_LZYX=layers_LZYX, **findings)


def opened(content: bytes) -> tuple[nib.Nifti1Image, dict[str, Any]]:
    image = nib.Nifti1Image.from_bytes(content)
    [extension] = image.header.extensions
    return image, json.loads(extension.get_content())


def test_each_labels_outlines_come_back_from_the_patterns() -> None:
    labels = {"A": Label.of(label_of(0)), "B": Label.of(label_of(2))}
    image, told = opened(outline_file(labels, OBLIQUE))
    codes_ZYX = np.asarray(image.dataobj).T
    x, y, z = told["start_XYZ"]
    assert (x, y, z) == (1, 1, 1)
    assert codes_ZYX.shape == (4, 8, 6)  # A's boxes begin at x = 1 and B's end before x = 7
    for place, name in enumerate(told["labels"]):
        for value in (1, 2):
            seen = np.array([value in pattern[place] for pattern in told["patterns"]])[codes_ZYX]
            expected = labels[name].mask_ZYX(value)[1:5, 1:9, 1:7]
            np.testing.assert_array_equal(seen, expected)
    assert codes_ZYX.dtype == np.uint8
    assert told["image_XYZ"] == [8, 10, 6]


def test_the_cut_lies_where_the_image_has_it_on_an_oblique_flipped_grid() -> None:
    image, told = opened(outline_file({"A": Label.of(label_of(2))}, OBLIQUE))
    begin = OBLIQUE.affine_RAS() @ [*told["start_XYZ"], 1]
    np.testing.assert_allclose(image.affine[:, 3], begin, atol=1e-4)
    np.testing.assert_allclose(image.affine[:3, :3], OBLIQUE.affine_RAS()[:3, :3], atol=1e-5)


def test_overlapping_structures_are_both_told_and_the_order_of_layers_makes_no_pattern() -> None:
    inner, outer = np.zeros(OBLIQUE.shape_ZYX, np.uint8), np.zeros(OBLIQUE.shape_ZYX, np.uint8)
    outer[1:4, 1:4, 1:4], inner[2, 2, 2] = 1, 2
    found = outlines_of([label(outer, inner), label(inner, outer)])
    assert sorted(found.patterns) == [((), ()), ((1,), (1,)), ((1, 2), (1, 2))]


def test_boxes_and_points_lie_in_voxels_of_the_image() -> None:
    centre = (OBLIQUE.affine_LPS() @ [3, 4, 2, 1])[:3]
    place = (float(centre[0]), float(centre[1]), float(centre[2]))
    drawn = label(
        boxes=(Box(structure="anterior", centre_mm_LPS=place, size_mm_XYZ=(1.6, 2.2, 5.0)),),
        points=(Point(structure="posterior", position_mm_LPS=place),),
    )
    _, told = opened(outline_file({"A": drawn}, OBLIQUE))
    assert told["boxes"] == [{"label": "A", "structure": "anterior", "low_XYZ": [2, 3, 1], "high_XYZ": [4, 5, 3]}]
    assert told["points"] == [{"label": "A", "structure": "posterior", "place_XYZ": [3, 4, 2]}]


def test_who_drew_nothing_has_no_voxels() -> None:
    image, told = opened(outline_file({"A": label(), "B": label(np.zeros(OBLIQUE.shape_ZYX))}, OBLIQUE))
    assert 0 in image.shape
    assert told["patterns"] == [[[], []]]


def test_too_many_patterns_are_refused_in_words() -> None:
    """256 × 256 pairs of two readers' values, and one more layer that splits one of them."""
    geometry = Geometry(
        shape_ZYX=(1, 256, 257), spacing_mm_XYZ=(1, 1, 1), origin_mm_LPS=(0, 0, 0), direction_LPS=OBLIQUE.direction_LPS
    )
    first, second, third = (np.zeros(geometry.shape_ZYX, np.uint8) for _ in range(3))
    first[0, :, :256], second[0, :, :256] = np.mgrid[:256, :256]
    third[0, 0, 256] = 1
    assert len(outlines_of([label(one, geometry=geometry) for one in (first, second)]).patterns) == 65_536
    with pytest.raises(LabelError, match="more than 65535 ways"):
        outlines_of([label(one, geometry=geometry) for one in (first, second, third)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(0, 2))
def test_random_labels_come_back(seed: int, readers: int, layers: int) -> None:
    random = np.random.default_rng(seed)
    drawn = [random.integers(0, 4, (layers, *OBLIQUE.shape_ZYX)) * random.integers(0, 2) for _ in range(readers)]
    labels = [label(*one) for one in drawn]
    found = outlines_of(labels)
    for place, one in enumerate(labels):
        for value in range(1, 4):
            seen = np.array([value in pattern[place] for pattern in found.patterns])[found.codes_ZYX]
            whole = np.zeros(OBLIQUE.shape_ZYX, bool)
            whole[found.region] = seen
            np.testing.assert_array_equal(whole, one.mask_ZYX(value))
