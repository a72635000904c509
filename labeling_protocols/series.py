"""Files of one DICOM image series in, one volume in the patient's LPS frame out, or a refusal in words (`stack.py`)."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels import pixel_array
from pydicom.uid import UID

from labeling_protocols.geometry import Geometry, Volume
from labeling_protocols.stack import Placement, SeriesError, grid_of, order_along_normal, require_one_stack

__all__ = ["Series", "SeriesError", "SeriesFiles", "geometry_of", "read_headers", "read_series", "scan"]


@dataclass(frozen=True, kw_only=True)
class SeriesFiles:
    """The files of one Series Instance UID, in no particular order; `kind` is the SOP class in words."""

    uid: str
    modality: str
    kind: str
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A volume with the slices it was made from, both in the order of the volume's z axis.

    `sources` are the slices' headers without their pixel data.
    """

    volume: Volume
    files: tuple[Path, ...]
    sources: tuple[Dataset, ...]


def scan(paths: Path | Iterable[Path]) -> list[SeriesFiles]:
    """The DICOM series in a folder (with its subfolders) or among some files, whatever the files are called."""
    files = sorted(path for path in paths.rglob("*") if path.is_file()) if isinstance(paths, Path) else list(paths)
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in files:
        header = _series_header(path)
        if header is not None:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    return [
        SeriesFiles(
            uid=uid,
            modality=str(slices[0][1].get("Modality", "") or ""),
            kind=" and ".join(sorted({UID(str(header.SOPClassUID)).name for _, header in slices})),
            files=tuple(path for path, _ in slices),
        )
        for uid, slices in sorted(found.items())
    ]


def read_series(files: Sequence[Path]) -> Series:
    """The volume these slices make, with rescaled values (PS3.3 C.11.1) on a right-handed LPS grid.

    The z axis runs along the normal row × column, so file order and slice order change nothing. Raises `SeriesError`.
    """
    slices = _without_copies([(path, _read(path)) for path in files])
    headers = [header for _, header in slices]
    _refuse_what_is_no_stack(headers)
    ordered = [slices[i] for i in order_along_normal([_placement(header) for header in headers])]
    geometry = geometry_of([header for _, header in ordered])
    array_ZYX = smallest_type(np.stack([_values(path, header) for path, header in ordered]))
    for header in headers:
        del header.PixelData
    return Series(
        volume=Volume(array_ZYX=array_ZYX, geometry=geometry),
        files=tuple(path for path, _ in ordered),
        sources=tuple(header for _, header in ordered),
    )


def read_headers(files: Sequence[Path]) -> tuple[Dataset, ...]:
    """The headers of a series that was read before, in the order of its volume's z axis; the files may lack pixels."""
    headers = [dcmread(path, stop_before_pixels=True) for path in files]
    return tuple(headers[i] for i in order_along_normal([_placement(header) for header in headers]))


def geometry_of(ordered: Sequence[Dataset]) -> Geometry:
    """The grid of slices that are ordered along their normal; raises `SeriesError` where they make no regular one."""
    return grid_of([_placement(header) for header in ordered])


# Reading


def _series_header(path: Path) -> Dataset | None:
    """The few elements a scan needs, or None for a file that is not a DICOM instance."""
    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality"]
    with path.open("rb") as file:
        start = file.read(132)
    has_preamble = start[128:] == b"DICM"
    if not has_preamble and start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd in a header is judged when the series is read
            header = dcmread(path, stop_before_pixels=True, specific_tags=tags, force=not has_preamble)
    except Exception:  # noqa: BLE001  a file that pydicom cannot parse, for whatever reason, is no slice of a series
        return None
    return header if "SOPClassUID" in header and "SOPInstanceUID" in header else None


def _read(path: Path) -> Dataset:
    try:
        header = dcmread(path, force=True)
    except (InvalidDicomError, OSError, ValueError, EOFError, KeyError, NotImplementedError, TypeError) as error:
        raise SeriesError(f"a file of the series could not be read as DICOM ({type(error).__name__})") from error
    return header


def _without_copies(slices: list[tuple[Path, Dataset]]) -> list[tuple[Path, Dataset]]:
    """Each instance once; two files of one SOP Instance UID must hold the same pixels."""
    kept: dict[str, tuple[Path, Dataset]] = {}
    for path, header in slices:
        _, known = kept.setdefault(str(header.get("SOPInstanceUID", path)), (path, header))
        if known.get("PixelData") != header.get("PixelData"):
            raise SeriesError(
                "two files call themselves the same instance (SOP Instance UID) and hold different pixels"
            )
    return list(kept.values())


def _values(path: Path, header: Dataset) -> NDArray[np.generic]:
    """The slice's rescaled values, shape (rows, columns)."""
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2")))
    header.file_meta.TransferSyntaxUID = syntax
    try:
        stored = pixel_array(header)
    except (RuntimeError, ValueError, AttributeError, NotImplementedError, KeyError, OSError) as error:
        if syntax.is_compressed:
            return _values_by_itk(path, header, syntax)
        raise _undecodable(header, syntax) from error
    slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
    if slope == 1 and intercept == int(intercept):
        return np.asarray(stored.astype(np.int64) + int(intercept))
    return np.asarray(stored * slope + intercept)


def _values_by_itk(path: Path, header: Dataset, syntax: UID) -> NDArray[np.generic]:
    """What ITK's GDCM makes of a slice: it knows JPEG Lossless and fragmented JPEG-LS, and rescales itself."""
    try:
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise _undecodable(header, syntax) from error
    if values.shape != (1, int(header.Rows), int(header.Columns)):
        raise _undecodable(header, syntax)
    return np.asarray(values[0])


def _undecodable(header: Dataset, syntax: UID) -> SeriesError:
    return SeriesError(
        f"the pixels of the slice at {_place(header)} cannot be decoded ({syntax.name});"
        f" {header.Rows} × {header.Columns} pixels were expected"
    )


def smallest_type(array_ZYX: NDArray[np.generic]) -> NDArray[np.generic]:
    """The smallest signed type that holds the values: int16, int32, or float32 for anything with fractions."""
    if np.issubdtype(array_ZYX.dtype, np.integer):
        low, high = int(array_ZYX.min()), int(array_ZYX.max())
        if low >= -(2**15) and high < 2**15:
            return array_ZYX.astype(np.int16)
        if low >= -(2**31) and high < 2**31:
            return array_ZYX.astype(np.int32)
    return array_ZYX.astype(np.float32)


# Judging


def _refuse_what_is_no_stack(headers: Sequence[Dataset]) -> None:
    if not headers:
        raise SeriesError("the series has no files")
    for header in headers:
        _refuse_object(header)
    series = {str(header.get("SeriesInstanceUID", "")) for header in headers}
    if len(series) > 1:
        raise SeriesError(f"{len(series)} different series in one stack of {len(headers)} slices, one was expected")
    require_one_stack([_placement(header) for header in headers])


def _refuse_object(header: Dataset) -> None:
    kind = UID(str(header.get("SOPClassUID", "unknown"))).name
    if int(header.get("NumberOfFrames", 1) or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
        raise SeriesError(
            f"{kind}: a multi-frame object with {header.get('NumberOfFrames', 1)} frames;"
            " only series of single-frame images are read, send those instead"
        )
    if "PixelData" not in header:
        raise SeriesError(f"{kind}: an object without pixel data, an image was expected")
    missing = [
        keyword
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
        if header.get(keyword) in (None, "", [])
    ]
    if missing:
        raise SeriesError(f"{kind}: a slice lacks {', '.join(missing)}; without them it has no place in the patient")
    photometric = str(header.get("PhotometricInterpretation", ""))
    if int(header.get("SamplesPerPixel", 1)) != 1 or photometric != "MONOCHROME2":
        raise SeriesError(f"{kind}: photometric interpretation {photometric or 'missing'}, MONOCHROME2 was expected")
    if "ModalityLUTSequence" in header:
        raise SeriesError(f"{kind}: a Modality LUT instead of a rescale slope and intercept")


# Small readers


def _placement(header: Dataset) -> Placement:
    x, y, z = _numbers(header, "ImagePositionPatient", 3)
    row_mm, column_mm = _numbers(header, "PixelSpacing", 2)
    return Placement(
        rows=int(header.Rows),
        columns=int(header.Columns),
        position_mm_LPS=(float(x), float(y), float(z)),
        orientation_LPS=tuple(float(v) for v in _numbers(header, "ImageOrientationPatient", 6)),  # type: ignore[arg-type]
        spacing_mm_YX=(float(row_mm), float(column_mm)),
        frame_of_reference=str(header.get("FrameOfReferenceUID", "")),
    )


def _numbers(header: Dataset, keyword: str, count: int) -> NDArray[np.float64]:
    try:
        numbers = np.array([float(value) for value in header[keyword].value])
    except (TypeError, ValueError, KeyError) as error:
        raise SeriesError(f"{keyword} is not a list of {count} numbers") from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise SeriesError(f"{keyword} has {len(numbers)} usable values, {count} finite numbers were expected")
    return numbers


def _place(header: Dataset) -> str:
    x, y, z = _numbers(header, "ImagePositionPatient", 3)
    return f"({x:.1f}, {y:.1f}, {z:.1f}) mm"
