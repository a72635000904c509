"""XML files as the LIDC wrote them, of any readings, and the squares and points that tests mark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.series_writer import write_series
from tests.conftest import image_of
from tests.dicom.examples import identity_of

Points = Sequence[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Roi:
    """A contour on the slice written as number `k`, or on one that the series does not have, at `z_mm`."""

    k: int
    points: Points
    inclusion: str = "TRUE"
    z_mm: float | None = None
    uid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Marked:
    rois: Sequence[Roi]
    ratings: Mapping[str, int] = field(default_factory=dict)


class WrittenSeries:
    """A CT series on disk and the XML files about it."""

    def __init__(self, folder: Path, geometry: Geometry, *, name: str = "lidc", seed: int = 1) -> None:
        self.identity, self.folder = identity_of(name), folder
        volume = Volume(array_ZYX=image_of(seed, geometry).array_ZYX, geometry=geometry)
        self.paths = write_series(volume, folder, self.identity, modality="CT", shuffle=seed)
        self._z_mm = [float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in self.paths]

    def xml(self, *readings: Sequence[Marked], non_nodules: Sequence[float] = ()) -> bytes:
        """One reading each; `non_nodules` (z in mm) are marks of the first."""
        others = "".join(
            f"<nonNodule><nonNoduleID>n</nonNoduleID><imageZposition>{z}</imageZposition>"
            "<imageSOP_UID>1.2.3</imageSOP_UID><locus><xCoord>1</xCoord><yCoord>1</yCoord></locus></nonNodule>"
            for z in non_nodules
        )
        sessions = "".join(
            "<readingSession><annotationVersion>3.12</annotationVersion>"
            f"<servicingRadiologistID>-119094{number}</servicingRadiologistID>"
            f"{''.join(map(self._nodule, reading))}{others if number == 0 else ''}</readingSession>"
            for number, reading in enumerate(readings)
        )
        header = f"<SeriesInstanceUid>{self.identity.series_uid}</SeriesInstanceUid>"
        return (
            '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage uid="1.3" xmlns="http://www.nih.gov">'
            f"<ResponseHeader>{header}</ResponseHeader>{sessions}</LidcReadMessage>"
        ).encode()

    def _nodule(self, marked: Marked) -> str:
        told = "".join(f"<{name}>{value}</{name}>" for name, value in marked.ratings.items())
        characteristics = f"<characteristics>{told}</characteristics>" if told else ""
        rois = "".join(map(self._roi, marked.rois))
        return f"<unblindedReadNodule><noduleID>IL057</noduleID>{characteristics}{rois}</unblindedReadNodule>"

    def _roi(self, roi: Roi) -> str:
        z_mm = self._z_mm[roi.k] if roi.z_mm is None else roi.z_mm
        uid = roi.uid or f"{self.identity.series_uid}.{roi.k + 1}"
        edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in roi.points)
        return (
            f"<roi><imageZposition>{z_mm:.6f} </imageZposition><imageSOP_UID>{uid}</imageSOP_UID>"
            f"<inclusion>{roi.inclusion}</inclusion>{edges}</roi>"
        )


def square(left: int, top: int, side: int) -> Points:
    """The pixels round a square, in order: it encloses (side - 2)² of them."""
    last = side - 1
    return [
        *((left + i, top) for i in range(last)),
        *((left + last, top + i) for i in range(last)),
        *((left + last - i, top + last) for i in range(last)),
        *((left, top + last - i) for i in range(last)),
    ]


RATINGS = {
    "subtlety": 5,
    "internalStructure": 1,
    "calcification": 6,
    "sphericity": 4,
    "margin": 3,
    "lobulation": 2,
    "spiculation": 2,
    "texture": 5,
    "malignancy": 3,
}


def rated(*rois: Roi, **changed: int) -> Marked:
    return Marked(rois=rois, ratings=RATINGS | changed)
