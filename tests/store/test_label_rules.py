"""What may be a read and what may not, and the words that say why."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Answer, Box, Label, LabelError, Point
from labeling_protocols.label_rules import check_label, overlap_errors
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.records import Case
from tests.conftest import OBLIQUE

HIPPOCAMPUS, ABDOMEN, NODULE = (
    load_protocol(SHIPPED / f"{n}.yaml") for n in ("hippocampus", "abdomen_ct", "lung_nodule")
)
CASE = Case(
    id="0" * 16,
    protocol="any",
    patient="P",
    image="0" * 64,
    geometry=OBLIQUE,
    modality="CT",
    series=None,
    created=datetime(2026, 1, 1, tzinfo=UTC),
)


def place_LPS(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Where voxel (x, y, z) of the image lies."""
    a, b, c = (OBLIQUE.affine_LPS() @ [x, y, z, 1.0])[:3].tolist()
    return (a, b, c)


def drawn(*layers: dict[int, tuple[int, int]], geometry: Geometry = OBLIQUE, **more: object) -> Label:
    """A label; each layer maps a value to the rows of y it fills, from and below."""
    layers_LZYX = np.zeros((len(layers), *geometry.shape_ZYX), dtype=np.uint8)
    for layer_ZYX, filled in zip(layers_LZYX, layers, strict=True):
        for value, (start, stop) in filled.items():
            layer_ZYX[2:4, start:stop, 2:6] = value
    return Label(geometry=geometry, layers_LZYX=layers_LZYX, **more)  # type: ignore[arg-type]


def check(protocol: Protocol, label: Label) -> None:
    values, counts = np.unique(label.layers_LZYX, return_counts=True)
    voxels = {int(v): int(c) for v, c in zip(values, counts, strict=True) if v}
    check_label(protocol, CASE, label, voxels)


def box(structure: str = "nodule", at: tuple[float, float, float] = (4, 5, 3), size_mm: float = 2.0) -> Box:
    return Box(structure=structure, centre_mm_LPS=place_LPS(*at), size_mm_XYZ=(size_mm,) * 3)


def point(structure: str = "micronodule", at: tuple[float, float, float] = (4, 5, 3)) -> Point:
    return Point(structure=structure, position_mm_LPS=place_LPS(*at))


def answers(**given: Answer) -> Label:
    return drawn({1: (1, 4)}, answers=given)


@pytest.mark.parametrize(
    ("protocol", "label"),
    [
        (HIPPOCAMPUS, drawn({1: (1, 4), 2: (4, 8)})),
        (HIPPOCAMPUS, drawn({1: (1, 4)}, {2: (4, 8)})),
        (ABDOMEN, drawn({1: (1, 8)}, {6: (2, 4)})),
        (ABDOMEN, drawn({6: (1, 8)}, {1: (2, 4)})),
        (NODULE, drawn({})),
        (NODULE, drawn()),
        (NODULE, drawn(boxes=(box(),), points=(point(),))),
        (NODULE, drawn(boxes=(box(at=(0, 0, 0), size_mm=1.0),))),
        (NODULE, drawn({1: (1, 4)}, boxes=(box(),), answers={"malignancy": 5, "image_quality": "everywhere"})),
        (NODULE, answers(remark="a" * 1000)),
    ],
)
def test_a_label_that_keeps_the_rules_is_taken(protocol: Protocol, label: Label) -> None:
    check(protocol, label)


ELSEWHERE = replace(OBLIQUE, origin_mm_LPS=(0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("protocol", "label", "words"),
    [
        (HIPPOCAMPUS, drawn({1: (1, 4)}, geometry=ELSEWHERE), "does not lie on the image's grid: its corners lie"),
        (HIPPOCAMPUS, drawn({1: (1, 4), 3: (4, 8)}), "values the protocol does not: 3; expected 0, 1 anterior, 2 post"),
        (HIPPOCAMPUS, drawn({}), "the label is empty: no voxel belongs to any structure of the protocol"),
        (HIPPOCAMPUS, drawn(), "the label is empty"),
        (replace(NODULE, may_be_empty=False), drawn(answers={"malignancy": 1}), "it has no voxel, box or point"),
        (
            HIPPOCAMPUS,
            drawn({1: (1, 5)}, {2: (4, 8)}),
            "anterior and posterior share 8 voxels and the protocol does not let them overlap",
        ),
        (ABDOMEN, drawn({1: (1, 8)}, {2: (7, 9)}), "liver and spleen share 8 voxels"),
        (NODULE, drawn({2: (1, 4)}), "values the protocol does not: 2; expected 0, 1 nodule"),
        (HIPPOCAMPUS, drawn({1: (1, 4)}, boxes=(box("anterior"),)), "expected no boxes under this protocol"),
        (NODULE, drawn(boxes=(box("micronodule"),)), "box 1 of 1 names the structure 'micronodule'; expected nodule"),
        (NODULE, drawn(points=(point("nodule"),)), "point 1 of 1 names the structure 'nodule'; expected micronodule"),
        (NODULE, drawn(boxes=(box(), box("../x"))), "box 2 of 2 names the structure '../x'"),
        (NODULE, drawn(boxes=(box(at=(8, 5, 3)),)), "box 1 of 1 (nodule) lies outside the image, at"),
        (NODULE, drawn(points=(point(at=(4, 5, -0.6)),)), "point 1 of 1 (micronodule) lies outside the image"),
        (NODULE, drawn(boxes=(box(size_mm=0.0),)), "has a size of 0.0 × 0.0 × 0.0 mm; expected each side above 0"),
        # 10 mm are 12.5 voxels along x, 6.25 to each side of voxel 4; the image ends at 7.5.
        (NODULE, drawn(boxes=(box(size_mm=10.0),)), "reaches 2.8 voxels beyond the image's edge"),
        (NODULE, drawn(boxes=(box(at=(float("nan"), 5, 3)),)), "has a coordinate that is no number"),
        (NODULE, drawn(boxes=(box(size_mm=float("inf")),)), "has a coordinate that is no number"),
        (NODULE, answers(stage=1), "questions the protocol does not ask: 'stage'; expected malignancy, subtlety"),
        (HIPPOCAMPUS, answers(stage=1), "'stage'; this protocol asks none"),
        (NODULE, answers(malignancy=6), "the answer to 'malignancy' is 6; expected a whole number from 1 to 5"),
        (NODULE, answers(malignancy=2.0), "is 2.0; expected a whole number"),
        (NODULE, answers(malignancy=True), "is True; expected a whole number"),
        (NODULE, answers(image_quality="bad"), "is 'bad'; expected one of everywhere, not everywhere, nowhere"),
        (NODULE, answers(remark="a" * 1001), "expected text of at most 1000 characters"),
        (
            replace(NODULE, questions=(replace(NODULE.questions[0], required=True),)),
            answers(),
            "the question 'malignancy' (How likely",
        ),
    ],
)
def test_a_label_that_breaks_a_rule_is_refused_in_words(protocol: Protocol, label: Label, words: str) -> None:
    with pytest.raises(LabelError) as refusal:
        check(protocol, label)
    assert words in str(refusal.value)
    assert str(refusal.value).endswith("Nothing was saved.")


def test_a_long_foreign_name_is_cut_in_the_words() -> None:
    with pytest.raises(LabelError) as refusal:
        check(NODULE, answers(**{"q" * 10_000: 1}))
    assert len(str(refusal.value)) < 300


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, (3, *(2, 3, 4)), elements=st.sampled_from([0, 1, 2, 6])))
def test_shared_voxels_are_counted_as_masks_would_count_them(layers_LZYX: np.ndarray) -> None:
    label = Label(geometry=replace(OBLIQUE, shape_ZYX=(2, 3, 4)), layers_LZYX=layers_LZYX)
    shared = {}
    for a, b in ((1, 2), (2, 6)):  # 1 and 6, liver and its tumour, may overlap
        for i, j in ((0, 1), (0, 2), (1, 2)):
            for low, high in ((i, j), (j, i)):
                count = int(np.count_nonzero((layers_LZYX[low] == a) & (layers_LZYX[high] == b)))
                shared[a, b] = shared.get((a, b), 0) + count
    names = {1: "liver", 2: "spleen", 6: "liver_tumour"}
    expected = [
        f"{names[a]} and {names[b]} share {count} voxels and the protocol does not let them overlap"
        for (a, b), count in shared.items()
        if count
    ]
    assert overlap_errors(ABDOMEN, label) == expected


def test_a_label_has_so_many_findings_at_most() -> None:
    """Every two readers' findings are compared with each other: time and memory go with the square."""
    check(NODULE, drawn(boxes=(box(),) * 1000, points=(point(),) * 1000))
    for more in ({"boxes": (box(),) * 1001}, {"points": (point(),) * 1001}):
        (kind,) = more
        with pytest.raises(LabelError, match=f"has 1001 {kind}; expected at most 1000. Nothing was saved"):
            check(NODULE, drawn(**more))
