"""One large label saved, read and weighed in the store, beside nibabel's and SimpleITK's files."""

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from measuring import Row, compare, medians, seconds_of
from nibabel.openers import Opener
from numpy.typing import NDArray

from apps.accounts import Accounts
from apps.settings import make_site
from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.label import Label
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case

LABEL_SHAPE_ZYX = (300, 512, 512)
# Ellipsoids of an abdomen's five organs, as parts of the volume: centre z, y, x and half axes.
_ORGANS = (
    (0.50, 0.50, 0.31, 0.36, 0.18, 0.20),
    (0.53, 0.51, 0.72, 0.20, 0.12, 0.10),
    (0.27, 0.64, 0.39, 0.16, 0.08, 0.08),
    (0.27, 0.64, 0.64, 0.16, 0.08, 0.08),
    (0.73, 0.39, 0.58, 0.13, 0.12, 0.18),
)


def label_rows(shape_ZYX: tuple[int, int, int], repeats: int) -> list[Row]:
    """A durable save and a read of one label of five organs; each save is of a label changed by one voxel.

    The peers write a compressed file (nibabel .nii.gz at gzip's level 6; SimpleITK .nrrd as 3D Slicer saves it, with
    `useCompression`), hash it with SHA-256 and commit a row to SQLite as it comes; neither file is fsynced, ours is.
    """
    geometry = grid(shape_ZYX)
    labels = changing(Label(geometry=geometry, layers_LZYX=organs(shape_ZYX)[np.newaxis]))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        site = make_site(folder / "site")
        store = Store(site.database_url, site.blobs)
        protocol = load_protocol(SHIPPED / "abdomen_ct.yaml")
        store.add_protocol(protocol)
        reader = Accounts(store, site).add("reader", "a long password", frozenset({Role.READER})).id
        image = Volume(array_ZYX=np.zeros(shape_ZYX, np.int16), geometry=geometry)
        store.add_case(protocol=protocol.name, patient="P", volume=image, modality="CT")
        case = next_case(store, protocol.name, reader)
        assert case is not None
        peer = _Peer(folder)

        def ours() -> float:
            label = next(labels)
            return seconds_of(lambda: store.save_read(case_id=case.id, reader=reader, label=label))

        rows = [
            medians("save label vs nibabel", ours, lambda: peer.nifti(next(labels)), 12, repeats),
            medians("save label vs nrrd", ours, lambda: peer.nrrd(next(labels)), 2, repeats),
        ]
        digest = store.reads(case.id, reader)[-1].label
        rows += [
            compare(
                "read label vs nrrd",
                lambda: store.label(digest),
                lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(peer.nrrd_path))),
                5,
                repeats,
            ),
            _size("size vs nii.gz", len(store.blobs.get(digest)), peer.nifti_path),
            _size("size vs nrrd", len(store.blobs.get(digest)), peer.nrrd_path),
        ]
        store.close()
        peer.close()
        return rows


class _Peer:
    """What people write who have no store: a file, its hash and a row in a database."""

    def __init__(self, folder: Path) -> None:
        self.nifti_path, self.nrrd_path = folder / "label.nii.gz", folder / "label.nrrd"
        self._database = sqlite3.connect(folder / "peer.db")
        self._database.execute("create table labels (digest text)")

    def nifti(self, label: Label) -> float:
        image = nib.Nifti1Image(label.array_ZYX.T, label.geometry.affine_RAS())
        usual, Opener.default_compresslevel = Opener.default_compresslevel, 6

        def work() -> None:
            nib.save(image, self.nifti_path)
            self._commit(self.nifti_path)

        try:
            return seconds_of(work)
        finally:
            Opener.default_compresslevel = usual

    def nrrd(self, label: Label) -> float:
        image = label.volume().to_sitk()

        def work() -> None:
            sitk.WriteImage(image, str(self.nrrd_path), useCompression=True)
            self._commit(self.nrrd_path)

        return seconds_of(work)

    def close(self) -> None:
        self._database.close()

    def _commit(self, path: Path) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._database.execute("insert into labels values (?)", (digest,))
        self._database.commit()


def _size(name: str, ours: int, peer: Path) -> Row:
    theirs = peer.stat().st_size
    return Row(name=name, ours=ours, peer=theirs, unit="B", ratio=theirs / ours, goal=1)


def organs(shape_ZYX: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Five ellipsoids with uneven surfaces, values 1 to 5."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape_ZYX)]
    depth, height, width = shape_ZYX
    organs = np.zeros(shape_ZYX, np.uint8)
    for value, (cz, cy, cx, rz, ry, rx) in enumerate(_ORGANS, start=1):
        uneven = 1 + 0.06 * np.sin(z / 9 + value) + 0.05 * np.sin(y / 7 + value) + 0.04 * np.sin(x / 11 + z / 13)
        inside = (z / depth - cz) ** 2 / rz**2 + (y / height - cy) ** 2 / ry**2 + (x / width - cx) ** 2 / rx**2
        organs[inside < uneven] = value
    return organs


def changing(label: Label) -> Iterator[Label]:
    """The same label again and again, each time one voxel further on changed."""
    layers = label.layers_LZYX.copy()
    for number in range(layers.size):
        layers.ravel()[number] = 1 - min(1, layers.ravel()[number])
        yield Label(geometry=label.geometry, layers_LZYX=layers)


def grid(shape_ZYX: tuple[int, int, int]) -> Geometry:
    return Geometry(
        shape_ZYX=shape_ZYX,
        spacing_mm_XYZ=(0.8, 0.8, 1.0),
        origin_mm_LPS=(-200.0, -200.0, 0.0),
        direction_LPS=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
