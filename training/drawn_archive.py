"""An archive drawn by the program in which it can matter what is read next: a seed in; a pool and a test set out.

Four structures of unequal size and frequency: an organ and its duct in every patient, lesions of varying contrast in
some, a cyst that only its place tells from the organ in few. Some patients come from a scanner that shows contrast the
other way round, some images are noisy and unevenly bright. More than half of the pool are follow-ups of a handful of
patients without lesion or cyst, which look nearly alike. The test set holds no follow-ups. All of this is chosen so
that a good choice has something to gain: how much there is to gain in a real archive, no drawn one can tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from labeling_protocols.geometry import Geometry, Volume
from training.annotation_sets import AnnotationSet, LabelledCase

VALUES = {"organ": 1, "duct": 2, "lesion": 3, "cyst": 4}
# Anisotropic, with the first two axes turned by a fifth of a right angle and the slices stacked from the head down.
_TURN = np.pi / 10
GEOMETRY = Geometry(
    shape_ZYX=(20, 24, 24),
    spacing_mm_XYZ=(1.7, 1.7, 2.3),
    origin_mm_LPS=(-11.0, 23.5, 40.0),
    direction_LPS=(np.cos(_TURN), -np.sin(_TURN), 0.0, np.sin(_TURN), np.cos(_TURN), 0.0, 0.0, 0.0, -1.0),
)
POOL, TEST = 120, 60
_FOLLOWED, _FOLLOWED_SHARE = 6, 0.55  # patients with many follow-ups, and the share of the pool that these are
_LESION_SHARE, _CYST_SHARE, _INVERTED_SHARE, _NOISY_SHARE = 0.40, 0.20, 0.15, 0.10  # of the other patients
_AGAIN_MM = 0.4  # how far an organ has moved at a follow-up
_NOISE = 0.12  # of the organ's contrast

Point = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ball:
    """An ellipsoid in millimetres from the volume's middle, along the grid's z, y and x, and its contrast."""

    centre_mm: Point
    radii_mm: Point
    contrast: float


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is drawn of one patient."""

    organ: Ball
    duct_mm: float
    lesions: tuple[Ball, ...]
    cyst: Ball | None
    inverted: bool
    noisy: bool


def drawn_archive(seed: int = 0, pool: int = POOL, test: int = TEST) -> AnnotationSet:
    """The archive of this seed; shares of what is rare are exact in the pool's other patients and in the test set."""
    random = np.random.default_rng((29, seed))
    followed = round(pool * _FOLLOWED_SHARE)
    patients = _patients(random, pool - followed)
    usual = [_patient(random) for _ in range(min(_FOLLOWED, max(1, followed)))]
    patients += [_again(usual[number % len(usual)], random) for number in range(followed)]
    random.shuffle(patients)  # type: ignore[arg-type]  # numpy's stub wants an array, a list is documented
    return AnnotationSet(
        name="drawn",
        values=VALUES,
        counted=frozenset({"lesion"}),
        spacing_mm_RAS=(1.7, 1.7, 2.3),
        patch_RAS=(24, 24, 20),
        pool=_drawn(patients, random),
        test=_drawn(_patients(random, test), random),
    )


def draw(patient: Patient, random: np.random.Generator) -> tuple[Volume, Volume]:
    """The patient's image, float32, and label, uint8, on `GEOMETRY`."""
    point_mm = _points_mm()
    label = np.zeros(GEOMETRY.shape_ZYX, dtype=np.uint8)
    signal = np.zeros(GEOMETRY.shape_ZYX)
    _paint(signal, label, _inside(point_mm, patient.organ), "organ", patient.organ.contrast)
    duct = _duct(point_mm, patient)
    _paint(signal, label, duct, "duct", 1.7 * patient.organ.contrast)
    for lesion in patient.lesions:
        _paint(signal, label, _inside(point_mm, lesion), "lesion", patient.organ.contrast - lesion.contrast)
    if patient.cyst is not None:
        outside = _inside(point_mm, patient.cyst) & (label == 0)
        _paint(signal, label, outside, "cyst", patient.cyst.contrast)
    image = _acquired(signal, patient, random).astype(np.float32)
    return Volume(array_ZYX=image, geometry=GEOMETRY), Volume(array_ZYX=label, geometry=GEOMETRY)


def _drawn(patients: Sequence[Patient], random: np.random.Generator) -> tuple[LabelledCase, ...]:
    cases = []
    for number, patient in enumerate(patients):
        image, label = draw(patient, random)
        cases.append(LabelledCase(case=f"{number:03d}", image=image, label=label))
    return tuple(cases)


def _patients(random: np.random.Generator, count: int) -> list[Patient]:
    """Patients of whom exactly the shares that are rare have lesions, a cyst, or an unusual image."""
    has = [
        random.permutation(count) < round(count * share)
        for share in (_LESION_SHARE, _CYST_SHARE, _INVERTED_SHARE, _NOISY_SHARE)
    ]
    return [_patient(random, *(bool(kind[number]) for kind in has)) for number in range(count)]


def _patient(
    random: np.random.Generator,
    with_lesions: bool = False,
    with_cyst: bool = False,
    inverted: bool = False,
    noisy: bool = False,
) -> Patient:
    organ = Ball(
        centre_mm=random.uniform((-3.0, -5.0, -3.0), (3.0, 0.0, 3.0)),
        radii_mm=random.uniform((9.0, 8.0, 8.0), (14.0, 11.0, 11.0)),
        contrast=random.uniform(0.8, 1.2),
    )
    lesions = tuple(_lesion(random, organ) for _ in range(int(random.integers(1, 4)) if with_lesions else 0))
    return Patient(
        organ=organ,
        duct_mm=random.uniform(1.9, 2.5),
        lesions=lesions,
        cyst=_cyst(random, organ) if with_cyst else None,
        inverted=inverted,
        noisy=noisy,
    )


def _lesion(random: np.random.Generator, organ: Ball) -> Ball:
    """A small ball within the organ, from hardly visible to clear."""
    way = random.normal(size=3)
    way *= random.uniform(0.45, 0.75) / np.linalg.norm(way)
    return Ball(
        centre_mm=organ.centre_mm + way * organ.radii_mm,
        radii_mm=np.full(3, random.uniform(3.0, 5.0)),
        contrast=random.uniform(0.4, 1.2),
    )


def _cyst(random: np.random.Generator, organ: Ball) -> Ball:
    """As bright as the organ, and always at its far side along y."""
    radii_mm = random.uniform(3.5, 5.5, 3)
    away_mm = np.array([random.uniform(-3.0, 3.0), organ.radii_mm[1] + radii_mm[1] - 0.5, random.uniform(-3.0, 3.0)])
    return Ball(centre_mm=organ.centre_mm + away_mm, radii_mm=radii_mm, contrast=organ.contrast)


def _again(patient: Patient, random: np.random.Generator) -> Patient:
    """The same patient some months later."""
    organ = patient.organ
    moved = replace(
        organ,
        centre_mm=organ.centre_mm + random.normal(0.0, _AGAIN_MM, 3),
        radii_mm=organ.radii_mm * random.normal(1.0, 0.015, 3),
        contrast=organ.contrast * random.normal(1.0, 0.02),
    )
    return replace(patient, organ=moved)


def _points_mm() -> NDArray[np.float64]:
    """Millimetres of every voxel from the volume's middle along z, y and x, shape (Z, Y, X, 3)."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * spacing
        for n, spacing in zip(GEOMETRY.shape_ZYX, GEOMETRY.spacing_mm_ZYX, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _inside(point_mm: NDArray[np.float64], ball: Ball) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.linalg.norm((point_mm - ball.centre_mm) / ball.radii_mm, axis=-1) < 1.0
    return inside


def _duct(point_mm: NDArray[np.float64], patient: Patient) -> NDArray[np.bool_]:
    """A bent tube along x, through the organ and a little beyond."""
    z, y, x = np.moveaxis(point_mm - patient.organ.centre_mm, -1, 0)
    along = x / patient.organ.radii_mm[2]
    away_mm = np.hypot(z - 2.0 * along, y - 3.0 * along**2)
    tube: NDArray[np.bool_] = (away_mm < patient.duct_mm) & (np.abs(along) < 1.15)
    return tube


def _paint(
    signal: NDArray[np.float64], label: NDArray[np.uint8], where: NDArray[np.bool_], name: str, level: float
) -> None:
    signal[where] = level
    label[where] = VALUES[name]


def _acquired(signal: NDArray[np.float64], patient: Patient, random: np.random.Generator) -> NDArray[np.float64]:
    """What the scanner makes of it: partial volume, an uneven field, noise, and a scale without a unit."""
    image = gaussian_filter(-signal if patient.inverted else signal, 0.45)
    slope = np.tensordot(_points_mm() / 20.0, random.normal(0.0, 0.25 if patient.noisy else 0.05, 3), axes=1)
    noise = random.normal(0.0, _NOISE * (2.2 if patient.noisy else 1.0), image.shape)
    return (image + slope + noise) * random.uniform(50.0, 500.0)
