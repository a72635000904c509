"""The archive that the program draws: exact shares, near-duplicates in the pool only, the same from the same seed."""

from pathlib import Path

import numpy as np
import pytest

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.volumes import write_volume
from training.annotation_sets import AnnotationSet, LabelledCase, hippocampus
from training.drawn_archive import GEOMETRY, VALUES, drawn_archive


@pytest.fixture(scope="module")
def archive() -> AnnotationSet:
    return drawn_archive(pool=40, test=20)


def has(case: LabelledCase, structure: str) -> bool:
    return bool((case.label.array_ZYX == VALUES[structure]).any())


def overlap(one: LabelledCase, other: LabelledCase) -> float:
    """Dice of everything that is drawn."""
    a, b = (case.label.array_ZYX > 0 for case in (one, other))
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_the_test_set_has_the_shares_that_are_promised(archive: AnnotationSet) -> None:
    assert sum(has(case, "lesion") for case in archive.test) == 8  # 40 % of 20
    assert sum(has(case, "cyst") for case in archive.test) == 4  # 20 %
    assert all(has(case, "organ") and has(case, "duct") for case in archive.test)


def test_follow_ups_make_what_is_rare_rarer_in_the_pool(archive: AnnotationSet) -> None:
    # 22 of 40 are follow-ups without either; of the other 18 patients 7 have lesions and 4 a cyst.
    assert sum(has(case, "lesion") for case in archive.pool) == 7
    assert sum(has(case, "cyst") for case in archive.pool) == 4


def test_most_of_the_pool_looks_like_another_case_and_the_test_set_does_not(archive: AnnotationSet) -> None:
    def alike(cases: list[LabelledCase]) -> int:
        return sum(max(overlap(one, other) for other in cases if other is not one) > 0.92 for one in cases)

    assert alike(list(archive.pool)) >= 20
    assert alike(list(archive.test)) <= 4


def test_the_same_seed_draws_the_same_archive_and_another_another(archive: AnnotationSet) -> None:
    again, other = drawn_archive(pool=40, test=20), drawn_archive(1, pool=40, test=20)
    assert all(
        np.array_equal(a.image.array_ZYX, b.image.array_ZYX) for a, b in zip(archive.pool, again.pool, strict=True)
    )
    assert not np.array_equal(archive.pool[0].image.array_ZYX, other.pool[0].image.array_ZYX)


def test_images_and_labels_lie_on_an_oblique_anisotropic_grid(archive: AnnotationSet) -> None:
    assert GEOMETRY.spacing_mm_XYZ == (1.7, 1.7, 2.3)
    assert np.linalg.det(np.reshape(GEOMETRY.direction_LPS, (3, 3))) == pytest.approx(-1.0)
    assert all(case.image.geometry == case.label.geometry == GEOMETRY for case in (*archive.pool, *archive.test))


def test_a_folder_becomes_a_pool_and_a_test_set_at_two_millimetres(tmp_path: Path) -> None:
    geometry = Geometry(
        shape_ZYX=(12, 16, 10),
        spacing_mm_XYZ=(1.0, 1.0, 1.0),
        origin_mm_LPS=(3.0, -5.0, 8.0),
        direction_LPS=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    label = np.zeros(geometry.shape_ZYX, dtype=np.uint8)
    label[4:8, 4:10, 2:6] = 1
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for number in range(8):
            array_ZYX = label if kind == "labels" else (label * 100 + number).astype(np.int16)
            write_volume(Volume(array_ZYX=array_ZYX, geometry=geometry), tmp_path / kind / f"case_{number}.nii.gz")
    found = hippocampus(tmp_path)
    assert (len(found.pool), len(found.test)) == (6, 2)
    one = found.pool[0]
    assert one.image.geometry.shape_ZYX == (6, 8, 5)
    # The first voxel of 2 mm covers the first two of 1 mm: its middle lies half a millimetre further along each axis.
    assert one.label.geometry.origin_mm_LPS == pytest.approx((2.5, -5.5, 8.5))
    assert one.image.geometry.difference(one.label.geometry) is None
    assert int((one.label.array_ZYX == 1).sum()) == 2 * 3 * 2
