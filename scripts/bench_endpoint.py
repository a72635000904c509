"""The DICOM endpoint beside Debian's Orthanc, pydicom and SimpleITK: images taken in durably, and read as volumes.

Sender of all is dcmtk's `storescu`, and no series is sent twice to a server. Both servers say success once an image is
on disk, and both sides turn Nagle's algorithm off unless a row says otherwise.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import imagecodecs
import numpy as np
import SimpleITK as sitk
from measuring import Row, compare, seconds_of
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGLSLossless
from scipy.ndimage import gaussian_filter

from apps.endpoint.inbox import Announced, Inbox
from apps.settings import CONFIG, make_site
from labeling_protocols.pseudonyms import keyed_uid
from labeling_protocols.store import Store
from labeling_protocols.stored_series import read_stored

SHAPE_ZYX = (200, 512, 512)
ROUNDS = 5
_TITLE = "OVERREAD"


def endpoint_rows(shape_ZYX: tuple[int, int, int] = SHAPE_ZYX, rounds: int = ROUNDS) -> list[Row]:
    with tempfile.TemporaryDirectory() as root:
        images = _images(shape_ZYX)
        return [*_ingest_rows(Path(root), images, rounds), *_volume_rows(Path(root), images, rounds)]


# Taking in


def _ingest_rows(root: Path, images: list[Dataset], rounds: int) -> Iterator[Row]:
    orthanc = shutil.which("Orthanc", path="/usr/sbin:/usr/bin")
    sender = shutil.which("storescu", path="/usr/bin")
    if orthanc is None or sender is None:
        print("c-store: there is no Orthanc, or no storescu (Debian packages orthanc, dcmtk); nothing was measured.")
        return
    numbers = count()
    for nagle in (False, True):
        words = " without TCP_NODELAY" if nagle else ""
        environment = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
        environment |= {} if nagle else {"TCP_NODELAY": "1"}
        with ExitStack() as stack:
            ours = stack.enter_context(_our_server(root / f"site{nagle}", environment))
            theirs = stack.enter_context(_orthanc(orthanc, root / f"orthanc{nagle}", environment))
            for associations in (1, 4):
                name = f"c-store {associations} association{'s' if associations > 1 else ''}{words}"
                goal = None if nagle else 1.2
                used = images[: len(images) // 10] if nagle else images
                yield _row(name, root, sender, (ours, theirs), associations, used, rounds, numbers, environment, goal)


def _row(
    name: str,
    root: Path,
    sender: str,
    ports: tuple[int, int],
    associations: int,
    images: list[Dataset],
    rounds: int,
    numbers: Iterator[int],
    environment: Mapping[str, str],
    goal: float | None,
) -> Row:
    """Images a second, both servers in turn."""
    figures = []
    for _ in range(rounds + 1):
        rates = []
        for port in ports:
            folders = [_write(images, root / "sent", next(numbers)) for _ in range(associations)]
            seconds = seconds_of(partial(_send, sender, port, folders, environment))
            rates.append(associations * len(images) / seconds)
            for folder in folders:
                shutil.rmtree(folder)
        figures.append(rates)
    ours, theirs = (statistics.median(column) for column in zip(*figures[1:], strict=True))
    return Row(name=name, ours=ours, peer=theirs, unit="images/s", ratio=ours / theirs, goal=goal)


def _send(sender: str, port: int, folders: list[Path], environment: Mapping[str, str]) -> None:
    command = [sender, "-aec", _TITLE, "127.0.0.1", str(port), "+sd"]
    running = [subprocess.Popen([*command, str(folder)], env=environment) for folder in folders]
    if any(process.wait() for process in running):
        raise RuntimeError("a sender failed; nothing was measured")


@contextmanager
def _our_server(folder: Path, environment: Mapping[str, str]) -> Iterator[int]:
    make_site(folder)
    port = _free_port()
    (folder / "config.toml").write_text(CONFIG.replace("port = 11112", f"port = {port}"))
    command = [sys.executable, "-m", "apps.endpoint", "--site", str(folder)]
    here = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here, env={**environment})
    assert process.stdout is not None
    try:
        if "ready" not in process.stdout.readline():
            raise RuntimeError("the endpoint did not start; nothing was measured")
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _orthanc(program: str, folder: Path, environment: Mapping[str, str]) -> Iterator[int]:
    folder.mkdir()
    port = _free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "SyncStorageArea": True,  # its default: an image is on disk before it says so
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": _TITLE,
        "DicomAlwaysAllowStore": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    command = [program, str(folder / "orthanc.json")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    try:
        if not any("has started" in line for line in process.stderr):
            raise RuntimeError("Orthanc did not start; nothing was measured")
        yield port
    finally:
        process.terminate()
        process.communicate()


# Reading


def _volume_rows(root: Path, images: list[Dataset], rounds: int) -> Iterator[Row]:
    """A series that has just been received as a volume; the peers get its files in their order, known beforehand."""
    for words, syntax in (("", ExplicitVRLittleEndian), ("jpeg-ls ", JPEGLSLossless)):
        site = make_site(root / f"volume{syntax}")
        store = Store(site.database_url, site.blobs)
        series, files = _receive(Inbox(store, site.folder("inbox")), images, syntax, root / "received")
        inbox = Inbox(store, site.folder("inbox"))

        def ours(inbox: Inbox = inbox, series: str = series) -> np.ndarray:
            arrived = inbox.arrived(series)
            assert arrived is not None
            return read_stored(arrived.instances).volume.array_ZYX

        def by_pydicom(files: list[Path] = files) -> np.ndarray:
            return np.stack([dcmread(path).pixel_array for path in files])

        def by_simpleitk(files: list[Path] = files) -> np.ndarray:
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames([str(path) for path in files])
            return sitk.GetArrayFromImage(reader.Execute())

        if not (np.array_equal(ours(), by_simpleitk()) and np.array_equal(ours() + 1024, by_pydicom())):
            raise RuntimeError("the volumes differ; nothing was measured")
        yield compare(f"{words}volume vs pydicom", ours, by_pydicom, 3 if words else 5, rounds)
        yield compare(f"{words}volume vs simpleitk", ours, by_simpleitk, None if words else 4, rounds)
        store.close()


def _receive(inbox: Inbox, images: list[Dataset], syntax: str, folder: Path) -> tuple[str, list[Path]]:
    """Keep a series as the endpoint does; its UID, and the same files in order."""
    written = _write(images, folder, 0, syntax)
    files = sorted(written.iterdir())
    for path in files:
        content = path.read_bytes()
        header = dcmread(path, stop_before_pixels=True)
        at = 144 + int.from_bytes(content[140:144], "little")
        announced = Announced(
            sop_class=header.SOPClassUID, instance=header.SOPInstanceUID, transfer_syntax=syntax, sender="BENCH"
        )
        inbox.keep(announced, [content[at:]])
    return str(header.SeriesInstanceUID), files


# What is sent


def _images(shape_ZYX: tuple[int, int, int]) -> list[Dataset]:
    """A CT series: smooth tissue under noise, in air."""
    depth, height, width = shape_ZYX
    random = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    body = ((y - height / 2) / (height / 2.5)) ** 2 + ((x - width / 2) / (width / 2.2)) ** 2 < 1
    images = []
    for number in range(depth):
        tissue = 1040 + 600 * gaussian_filter(random.normal(size=(height, width)), 6) + random.normal(0, 12, body.shape)
        pixels = np.where(body, tissue, random.normal(24, 8, body.shape)).clip(0, 4095).astype(np.uint16)
        images.append(_image(number, pixels))
    return images


def _image(number: int, pixels_YX: np.ndarray) -> Dataset:
    image = Dataset()
    image.SOPClassUID = CTImageStorage
    image.Modality = "CT"
    image.PatientID, image.PatientName = "BENCH", "Bench^"
    image.FrameOfReferenceUID = keyed_uid(b"bench", "frame")
    image.ImagePositionPatient, image.ImageOrientationPatient = [-200, -200, float(number)], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness, image.InstanceNumber = [0.8, 0.8], 1, number + 1
    image.Rows, image.Columns = pixels_YX.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.RescaleIntercept, image.RescaleSlope = -1024, 1
    image.PixelData = pixels_YX.tobytes()
    return image


def _write(images: list[Dataset], folder: Path, number: int, syntax: str = ExplicitVRLittleEndian) -> Path:
    """The images as files of a series of this number."""
    folder = folder / f"{number}-{syntax}"
    folder.mkdir(parents=True)
    for place, image in enumerate(images):
        image.StudyInstanceUID = keyed_uid(b"bench", "study", str(number))
        image.SeriesInstanceUID = keyed_uid(b"bench", "series", str(number), syntax)
        image.SOPInstanceUID = keyed_uid(b"bench", "image", str(number), syntax, str(place))
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = syntax
        pixels = image.PixelData
        if syntax == JPEGLSLossless:
            pixels_YX = np.frombuffer(pixels, np.uint16).reshape(image.Rows, image.Columns)
            image.PixelData = encapsulate([imagecodecs.jpegls_encode(pixels_YX)])
        image.save_as(folder / f"{place:04d}.dcm", enforce_file_format=True)
        image.PixelData = pixels
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
