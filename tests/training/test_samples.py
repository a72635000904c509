"""Sample volumes can be read, labelled and told apart; the sample series is a series."""

from pathlib import Path

import numpy as np

from labeling_protocols.series import read_series, scan
from labeling_protocols.volumes import read_volume
from training.samples import draw_phantoms, draw_series


def test_drawn_phantoms_have_both_structures_and_differ(tmp_path: Path) -> None:
    draw_phantoms(tmp_path, 2)
    labels = [read_volume(path) for path in sorted((tmp_path / "labels").iterdir())]
    images = [read_volume(path) for path in sorted((tmp_path / "images").iterdir())]
    for image, label in zip(images, labels, strict=True):
        assert set(np.unique(label.array_ZYX)) == {0, 1, 2}
        assert image.geometry.difference(label.geometry) is None
    assert not np.array_equal(labels[0].array_ZYX, labels[1].array_ZYX)


def test_phantoms_of_the_same_seed_are_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_phantoms(tmp_path / name, 1, seed=3)
    first, second = (read_volume(tmp_path / name / "images" / "phantom_000.nii.gz") for name in ("a", "b"))
    assert np.array_equal(first.array_ZYX, second.array_ZYX)


def test_the_drawn_series_is_one_readable_series(tmp_path: Path) -> None:
    draw_series(tmp_path)
    (found,) = scan(tmp_path)
    assert read_series(found.files).volume.geometry.shape_ZYX == (36, 50, 36)
