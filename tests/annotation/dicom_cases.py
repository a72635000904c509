"""Cases that came as DICOM, for tests: a drawn patient's series in, ingested as any scanner's is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from apps.ingest.folder import ingest
from labeling_protocols.geometry import Geometry
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case
from labeling_protocols.series import read_series
from labeling_protocols.series_writer import SeriesIdentity, write_series
from tests.annotation.served import Served
from tests.training.drawn import draw, turned

# Turned by 37° about Z, columns and slices running backwards, slices thrice as thick as the pixels are wide.
ROUND_Z = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
OBLIQUE_AND_FLIPPED = turned(ROUND_Z @ np.diag([1.0, -1.0, -1.0]), (0.75, 0.75, 2.5))


def write_drawn(folder: Path, seed: int, geometry: Geometry = OBLIQUE_AND_FLIPPED) -> Path:
    """A series of a drawn patient in a folder of its own: numbered from the far end, its files in disorder."""
    image, _ = draw(seed, geometry)
    who = SeriesIdentity(
        patient_id=f"P{seed}",
        patient_name=f"P{seed}",
        study_uid=generate_uid(prefix=None),
        series_uid=generate_uid(prefix=None),
        frame_of_reference_uid=generate_uid(prefix=None),
        study_description="Drawn",
    )
    whole = replace(image, array_ZYX=image.array_ZYX.round().astype(np.int16))
    write_series(whole, folder / who.series_uid, who, flipped=True, shuffle=seed)
    return folder / who.series_uid


def take_in(served: Served, protocol: Protocol, series: Path) -> Case:
    [added] = ingest(served.store, served.site, series, protocol.name).added
    return served.store.case(added)


def sources_of(served: Served, case: Case) -> tuple[Dataset, ...]:
    """The headers of the case's de-identified slices, in the order of its z axis."""
    assert case.series is not None
    return read_series(sorted((served.site.folder("archive") / case.series).glob("*.dcm"))).sources
