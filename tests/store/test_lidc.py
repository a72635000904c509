"""What LIDC's radiologists marked becomes the labels they would have saved, and no file does harm."""

import json
import random
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from labeling_protocols.contours import drawn
from labeling_protocols.geometry import Geometry
from labeling_protocols.label import Label
from labeling_protocols.lesions import lesions_of
from labeling_protocols.lidc import BYTES_MAX, LidcError, parse_lidc, read_lidc
from labeling_protocols.lidc_labels import ReadingLabel, Slices, label_of, require_nodules
from labeling_protocols.protocol import SHIPPED, Protocol, load_protocol
from labeling_protocols.series import read_series, scan
from tests.lidc_files import Marked, Points, Roi, WrittenSeries, rated, square

# 6 slices of 16 rows and 20 columns, 30° about Z and turned round: oblique, flipped, anisotropic.
OBLIQUE = Geometry(
    shape_ZYX=(6, 16, 20),
    spacing_mm_XYZ=(0.8, 1.1, 2.5),
    origin_mm_LPS=(-31.0, 12.5, 7.25),
    direction_LPS=(0.866025403784, -0.5, 0.0, 0.5, 0.866025403784, 0.0, 0.0, 0.0, -1.0),
)


@pytest.fixture(scope="module")
def lung() -> Protocol:
    return load_protocol(SHIPPED / "lung_nodule.yaml")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> WrittenSeries:
    return WrittenSeries(tmp_path_factory.mktemp("series"), OBLIQUE)


@pytest.fixture(scope="module")
def slices(series: WrittenSeries) -> Slices:
    return Slices.of(read_series(scan(series.folder)[0].files))


def one_label(series: WrittenSeries, slices: Slices, lung: Protocol, *marked: Marked) -> ReadingLabel:
    (reading,) = parse_lidc(series.xml(marked)).readings
    return label_of(reading, slices, lung)


def written_ZYX(label: Label) -> NDArray[np.bool_]:
    """The outline on the grid that the series was written from, whose z axis runs the other way."""
    assert label.geometry.affine_LPS()[:3, 2] == pytest.approx(-OBLIQUE.affine_LPS()[:3, 2])
    return label.layers_LZYX[0][::-1] == 1


def mm_LPS(*index_XYZ: float) -> list[float]:
    """Where an index of the written grid lies."""
    return (OBLIQUE.affine_LPS() @ [*index_XYZ, 1.0])[:3].tolist()


# What a line encloses


@pytest.mark.parametrize(
    ("points", "inside"),
    [
        (square(2, 1, 5), {(x, y) for x in (3, 4, 5) for y in (2, 3, 4)}),
        ([*square(2, 1, 5), (2, 1)], {(x, y) for x in (3, 4, 5) for y in (2, 3, 4)}),
        ([(0, 0), (4, 0), (0, 4)], {(1, 1), (1, 2), (2, 1)}),
        ([(3, 3)], set()),
        ([(1, 1), (5, 1), (1, 1)], set()),
        ([(1, 1), (2, 1), (2, 2), (1, 2)], set()),
        ([(2, 0), (4, 2), (2, 4), (0, 2)], {(2, 1), (1, 2), (2, 2), (3, 2), (2, 3)}),
    ],
    ids=["square", "closed square", "three corners only", "one point", "there and back", "four pixels", "diamond"],
)
def test_a_line_encloses_the_pixels_inside_it_and_not_its_own(points: Points, inside: set[tuple[int, int]]) -> None:
    line = drawn(points)
    rows, columns = line.region
    found = {(int(x) + columns.start, int(y) + rows.start) for y, x in np.argwhere(line.inside_YX)}
    assert found == inside
    assert all(line.line_YX[y - rows.start, x - columns.start] for x, y in points)


def test_a_loop_drawn_beside_a_line_is_not_filled_by_it() -> None:
    """A line that runs past a pixel on one side and back on the other encloses it twice: it is outside."""
    spur = [(6, 2), (7, 1), (8, 2), (7, 3), (6, 2), (7, 3), (8, 2), (7, 1)]
    line = drawn([*square(0, 0, 6)[:8], *spur, *square(0, 0, 6)[8:]])
    assert not line.inside_YX[2, 7]
    assert line.inside_YX[1:5, 1:5].all()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=9))
def test_any_line_encloses_what_crossing_it_one_pixel_at_a_time_says(points: list[tuple[int, int]]) -> None:
    line = drawn(points)
    rows, columns = line.region
    for x in range(columns.start, columns.stop):
        for y in range(rows.start, rows.stop):
            expected = not on_line(points, x, y) and crossings(points, x, y) % 2 == 1
            assert line.inside_YX[y - rows.start, x - columns.start] == expected


def on_line(points: Points, x: int, y: int) -> bool:
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        flush = (bx - ax) * (y - ay) == (by - ay) * (x - ax)
        if flush and min(ax, bx) <= x <= max(ax, bx) and min(ay, by) <= y <= max(ay, by):
            return True
    return False


def crossings(points: Points, x: int, y: int) -> int:
    """How often a ray upwards from the pixel, a hair to its right, crosses the line."""
    right = x + Fraction(1, 1000)
    count = 0
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        if (ax < right) != (bx < right):
            count += ay + (right - ax) * Fraction(by - ay, bx - ax) < y
    return count


# What becomes of marks


def test_a_nodule_becomes_its_outline_and_a_box_where_it_was_marked(
    series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    made = one_label(series, slices, lung, rated(Roi(k=1, points=square(3, 2, 6)), Roi(k=2, points=square(5, 4, 5))))
    expected_ZYX = np.zeros(OBLIQUE.shape_ZYX, bool)
    expected_ZYX[1, 3:7, 4:8] = True
    expected_ZYX[2, 5:8, 6:9] = True
    assert np.array_equal(written_ZYX(made.label), expected_ZYX)
    (box,) = made.label.boxes  # columns 4 to 8, rows 3 to 7, two slices
    assert box.centre_mm_LPS == pytest.approx(mm_LPS(6, 5, 1.5))
    assert box.size_mm_XYZ == pytest.approx((5 * 0.8, 5 * 1.1, 2 * 2.5))
    assert (made.tally.nodules, made.tally.without_outline, made.tally.cut) == (1, 0, 0)


@pytest.mark.parametrize("hole_first", [False, True], ids=["hole last", "hole first"])
def test_a_hole_is_cut_out_with_its_own_line(
    hole_first: bool, series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    rois = [Roi(k=0, points=square(2, 2, 9)), Roi(k=0, points=square(5, 5, 3), inclusion="FALSE")]
    made = one_label(series, slices, lung, rated(*(reversed(rois) if hole_first else rois)))
    expected_YX = np.zeros((16, 20), bool)
    expected_YX[3:10, 3:10] = True  # 7 × 7 enclosed
    expected_YX[5:8, 5:8] = False  # the hole's line and the pixel in it
    assert np.array_equal(written_ZYX(made.label)[0], expected_YX)


@pytest.mark.parametrize(
    ("rois", "low", "high"),
    [
        ([Roi(k=3, points=[(7, 4)])], (7, 4, 3), (7, 4, 3)),
        ([Roi(k=3, points=[(7, 4), (8, 4), (9, 5)]), Roi(k=4, points=[(8, 5)])], (7, 4, 3), (9, 5, 4)),
    ],
    ids=["a single point", "a thin line"],
)
def test_a_nodule_whose_contours_enclose_nothing_is_boxed_and_not_outlined(
    rois: list[Roi],
    low: tuple[int, int, int],
    high: tuple[int, int, int],
    series: WrittenSeries,
    slices: Slices,
    lung: Protocol,
) -> None:
    made = one_label(series, slices, lung, rated(*rois))
    assert not made.label.layers_LZYX.any()
    (box,) = made.label.boxes
    assert box.centre_mm_LPS == pytest.approx(mm_LPS(*((a + b) / 2 for a, b in zip(low, high, strict=True))))
    assert box.size_mm_XYZ == pytest.approx(
        [(b - a + 1) * mm for a, b, mm in zip(low, high, OBLIQUE.spacing_mm_XYZ, strict=True)]
    )
    assert made.tally.without_outline == 1
    assert made.label.answers["malignancy"] == 3


def test_a_thin_slice_of_a_nodule_adds_nothing_to_its_outline(
    series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    made = one_label(series, slices, lung, rated(Roi(k=1, points=square(3, 3, 4)), Roi(k=2, points=[(4, 4), (5, 4)])))
    assert written_ZYX(made.label).sum(axis=(1, 2)).tolist() == [0, 4, 0, 0, 0, 0]
    assert made.label.boxes[0].size_mm_XYZ == pytest.approx((2 * 0.8, 2 * 1.1, 2.5))


def test_a_nodule_below_3_mm_becomes_a_point(series: WrittenSeries, slices: Slices, lung: Protocol) -> None:
    made = one_label(series, slices, lung, Marked(rois=[Roi(k=4, points=[(11, 9)])]))
    (point,) = made.label.points
    assert (point.structure, made.label.boxes) == ("micronodule", ())
    assert point.position_mm_LPS == pytest.approx(mm_LPS(11, 9, 4))
    assert (made.tally.nodules, made.tally.micronodules) == (0, 1)
    assert made.label.answers == {}


def test_an_outlined_nodule_that_nobody_rated_is_outlined(
    series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    made = one_label(series, slices, lung, Marked(rois=[Roi(k=4, points=square(1, 1, 4))]))
    assert (len(made.label.boxes), written_ZYX(made.label).sum(), made.label.answers) == (1, 4, {})


def test_nodules_that_touch_stay_two_boxes(series: WrittenSeries, slices: Slices, lung: Protocol) -> None:
    made = one_label(
        series, slices, lung, rated(Roi(k=1, points=square(3, 3, 5))), rated(Roi(k=2, points=square(3, 3, 5)))
    )
    assert len(made.label.boxes) == 2
    assert written_ZYX(made.label).sum() == 18


def test_the_answers_are_of_the_most_suspicious_nodule_and_of_two_the_larger(
    series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    made = one_label(
        series,
        slices,
        lung,
        rated(Roi(k=0, points=square(0, 0, 8)), malignancy=2, margin=1),
        rated(Roi(k=1, points=square(0, 0, 4)), malignancy=4, margin=2),
        rated(Roi(k=2, points=square(0, 0, 5)), malignancy=4, margin=5, texture=0),
        Marked(rois=[Roi(k=3, points=[(2, 2)])]),
    )
    assert made.label.answers == {
        "subtlety": 5,
        "internal_structure": 1,
        "calcification": 6,
        "sphericity": 4,
        "margin": 5,
        "lobulation": 2,
        "spiculation": 2,
        "malignancy": 4,
    }


def test_a_reading_without_a_mark_is_an_empty_label(series: WrittenSeries, slices: Slices, lung: Protocol) -> None:
    made = one_label(series, slices, lung)
    assert (made.label.layers_LZYX.any(), made.label.boxes, made.label.points) == (False, (), ())
    assert made.label.layers_LZYX.shape == (1, 6, 16, 20)


def test_what_lies_beyond_the_series_is_left_out_and_counted(
    series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    """The slices written lie at z 7.25, 4.75 … -5.25 mm."""
    beyond = Roi(k=0, points=square(3, 3, 5), z_mm=9.75, uid="1.2.3.4")
    reading = [
        rated(Roi(k=0, points=square(3, 3, 5)), beyond),
        rated(beyond, malignancy=5),
        Marked(rois=[Roi(k=0, points=[(1, 1)], z_mm=-30.0, uid="1.2.3.5")]),
    ]
    (read,) = parse_lidc(series.xml(reading, non_nodules=[12.25, 4.75, 9.75])).readings
    made = label_of(read, slices, lung)
    tally = made.tally
    assert (tally.nodules, tally.micronodules, tally.beyond, tally.cut, tally.non_nodules) == (1, 0, 2, 1, 3)
    assert tally.slices_beyond_mm == {9.75, -30.0, 12.25}
    assert written_ZYX(made.label).sum() == 9
    assert made.label.answers["malignancy"] == 3


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        (Roi(k=1, points=[(1, 1)], uid="1.2.3.4"), "marked at z 4.75 mm that the series, from -5.25 to 7.25 mm"),
        (Roi(k=1, points=[(1, 1)], z_mm=7.25), "as lying at z 7.25 mm, and lies at 4.75 mm"),
        (Roi(k=1, points=[(20, 1)]), "column 20, row 1; images of 20 columns and 16 rows"),
        (Roi(k=1, points=[(1, 16)]), "row 16"),
        (Roi(k=1, points=[(-1, 3), (4, 4)]), "images of 20 columns"),
    ],
    ids=["an image that is missing", "another place", "right of the image", "below it", "left of it"],
)
def test_marks_that_do_not_belong_to_the_series_are_refused(
    roi: Roi, words: str, series: WrittenSeries, slices: Slices, lung: Protocol
) -> None:
    with pytest.raises(LidcError, match=words) as refusal:
        one_label(series, slices, lung, rated(roi))
    assert "1.2.3.4" not in str(refusal.value)


def test_a_protocol_without_nodules_is_refused(protocol: Protocol, lung: Protocol) -> None:
    require_nodules(lung)
    with pytest.raises(LidcError, match="hippocampus has no structure 'nodule'"):
        require_nodules(protocol)


# Files that are none


GOOD = '<LidcReadMessage xmlns="http://www.nih.gov">{}</LidcReadMessage>'
HEADER = "<ResponseHeader><SeriesInstanceUid>1.2.840.999</SeriesInstanceUid></ResponseHeader>"
ROI = (
    "<roi><imageZposition>{z}</imageZposition><imageSOP_UID>1.2.840.998</imageSOP_UID><inclusion>{inclusion}</inclusion>"
    "<edgeMap><xCoord>{x}</xCoord><yCoord>4</yCoord></edgeMap></roi>"
)


def of_nodule(content: str) -> str:
    session = f"<readingSession><unblindedReadNodule>{content}</unblindedReadNodule></readingSession>"
    return GOOD.format(HEADER + session)


def of_roi(z: str = "1", x: str = "3", inclusion: str = "TRUE") -> str:
    return of_nodule(ROI.format(z=z, x=x, inclusion=inclusion))


BOMB = (
    "<!DOCTYPE lolz [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(9))
    + "]>"
    + GOOD.format("&j;")
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, "document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + GOOD.format("&x;"), "document type"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><a/>', "document type"),
        ("<a>" * 40 + "</a>" * 40, "in each other"),
        (GOOD.format("<a/>" * 500_001), "500,000 in all"),
        ("", "no whole XML"),
        ("a patient's name", "no whole XML"),
        ('<?xml version="1.0" encoding="EBCDIC-CP-US"?><a/>', "no whole XML"),
        (GOOD.format(HEADER)[:-10], "no whole XML"),
        (GOOD.format("&j;"), "no whole XML"),
        ("<html/>", "expected a LidcReadMessage"),
        (GOOD.format(HEADER), "found none"),
        ("<IdriReadMessage><CXRreadingSession/></IdriReadMessage>", "chest radiograph"),
        (GOOD.format("<readingSession/>"), "of which series"),
        (GOOD.format(HEADER + "<readingSession><blindedReadNodule/></readingSession>"), "of an unknown kind"),
        (of_nodule(""), "reading 1, nodule 1 is marked on no slice"),
        (of_nodule("<roi/>"), "without an image"),
        (of_nodule("<roi><imageSOP_UID>1.2.840.998</imageSOP_UID></roi>"), "without points"),
        (of_roi(x="3.5"), "a whole number was expected"),
        (of_roi(x="٣"), "a whole number was expected"),
        (of_roi(x="9" * 5000), "a whole number was expected"),
        (of_roi(z="NaN"), "a number was expected"),
        (of_roi(z=""), "a number was expected"),
        (of_roi(inclusion="PERHAPS"), "expected TRUE or FALSE"),
        (
            of_nodule("<characteristics><margin>6</margin></characteristics>" + ROI),
            "margin is rated '6'; expected 1 to 5",
        ),
        (of_nodule("<characteristics><margin>-1</margin></characteristics>" + ROI), "expected 1 to 5"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) and " " in value[:24] else "",
)
def test_a_file_that_is_none_of_the_lidcs_is_refused_in_words(content: str, words: str) -> None:
    with pytest.raises(LidcError, match=words) as refusal:
        parse_lidc(content.format(z="1", x="3", inclusion="TRUE").encode() if "{z}" in content else content.encode())
    assert len(str(refusal.value)) < 200
    assert "1.2.840" not in str(refusal.value)
    assert "patient" not in str(refusal.value)


def test_a_file_of_100_mb_is_refused_without_being_read(tmp_path: Path) -> None:
    with (tmp_path / "large.xml").open("wb") as file:
        file.write(b"<LidcReadMessage>")
        file.truncate(100_000_000)
    with pytest.raises(LidcError, match=f"larger than {BYTES_MAX >> 20} MB"):
        read_lidc(tmp_path / "large.xml")


def test_a_damaged_file_is_read_or_refused_and_never_fails(series: WrittenSeries) -> None:
    whole = series.xml([rated(Roi(k=1, points=square(3, 2, 4)))], [Marked(rois=[Roi(k=2, points=[(4, 4)])])])
    draw = random.Random(4)
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(content))
            content[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
        try:
            parse_lidc(bytes(content))
        except LidcError as refusal:
            assert str(refusal)  # noqa: PT017  either is right


# A real scan


@pytest.fixture(scope="module")
def real(real_data: Path, lung: Protocol) -> tuple[Slices, list[Label]]:
    slices = Slices.of(read_series(scan(real_data / "lidc_0003" / "dicom")[0].files))
    lidc = read_lidc(real_data / "lidc_0003" / "072.xml")
    return slices, [label_of(reading, slices, lung).label for reading in lidc.readings]


def derived_ZYX(path: Path, geometry: Geometry) -> NDArray[np.bool_]:
    """Somebody else's mask of one nodule, a crop that may reach beyond the series, on the series' grid."""
    image = sitk.ReadImage(str(path))
    array_ZYX = sitk.GetArrayFromImage(image) > 0
    apart_mm = np.subtract(image.GetOrigin(), geometry.origin_mm_LPS)
    first_ZYX = np.round(apart_mm / geometry.spacing_mm_XYZ).astype(int)[::-1]
    index_ZYX = np.argwhere(array_ZYX) + first_ZYX
    mask_ZYX = np.zeros(geometry.shape_ZYX, bool)
    mask_ZYX[tuple(index_ZYX.T)] = True
    return mask_ZYX


@pytest.mark.real_data
def test_the_outlines_of_a_real_scan_are_those_somebody_else_made_of_it_voxel_by_voxel(
    real: tuple[Slices, list[Label]], real_data: Path
) -> None:
    slices, labels = real
    for number, label in enumerate(labels, 1):
        theirs = sorted((real_data / "lidc_0003" / "derived").glob(f"*_reader{number}.nii.gz"))
        masks = [derived_ZYX(path, slices.geometry) for path in theirs]
        assert np.array_equal(label.layers_LZYX[0] == 1, np.any(masks, axis=0))
        assert len(label.boxes) == len(masks) == (4 if number == 4 else 3)
        assert label.points == ()


@pytest.mark.real_data
def test_the_lesions_of_a_real_scan_and_their_dice_are_those_somebody_else_found(
    real: tuple[Slices, list[Label]], lung: Protocol, real_data: Path
) -> None:
    """Lesion by lesion, although one reader's outlines of two of them touch; matched by where they lie."""
    slices, labels = real
    lesions = lesions_of(lung, {f"reader{number}": label for number, label in enumerate(labels, 1)})
    assert sorted(len(lesion.found_by) for lesion in lesions) == [1, 4, 4, 4]
    derived = real_data / "lidc_0003" / "derived"
    for theirs in json.loads((derived / "agreement.json").read_text()):
        whole_ZYX = np.any(
            [derived_ZYX(path, slices.geometry) for path in derived.glob(f"*nodule{theirs['nodule']}_reader*")], axis=0
        )
        (lesion,) = (lesion for lesion in lesions if (whole_ZYX[lesion.region] & lesion.mask_ZYX).any())
        assert lesion.mask_ZYX is not None
        assert lesion.mask_ZYX.sum() == whole_ZYX.sum()
        assert set(lesion.found_by) == set(theirs["readers"])
        assert set(lesion.boxes) == set(theirs["readers"])
        for a, b in combinations(theirs["readers"], 2):
            own = [labels[int(name[-1]) - 1].layers_LZYX[0][lesion.region] & lesion.mask_ZYX for name in (a, b)]
            expected = theirs["pairwise_dice"][f"{a[-1]}-{b[-1]}"]
            assert 2 * (own[0] & own[1]).sum() / (own[0].sum() + own[1].sum()) == pytest.approx(expected, abs=0.01)
