"""Frames and files as DICOMweb sends them: an image of the archive in, bytes with the media type they are of out."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from fastapi import HTTPException
from pydicom import Dataset, dcmwrite
from pydicom.encaps import get_frame
from pydicom.uid import UID, ExplicitVRLittleEndian

from labeling_protocols.store import UnknownError

# PS3.18 table 8.7.3-2: what a compressed frame is called on the wire.
_MEDIA_TYPES = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
# pydicom raises what it likes where a syntax is unknown to it or a stream is damaged.
UNDECODABLE = (RuntimeError, ValueError, AttributeError, NotImplementedError, KeyError, OSError)


def frames(image: Dataset, numbers: Sequence[int], *, uncompressed: bool) -> list[tuple[str, bytes]]:
    """Frames (1-based) as they are stored; uncompressed ones, or all where that is asked, in Explicit VR Little Endian.

    Raises `UnknownError` for a frame there is none of, and 406 where one cannot be given so.
    """
    count = frame_count(image)
    if any(not 1 <= number <= count for number in numbers):
        raise UnknownError(f"no such frame; this instance has {count}")
    if uncompressed:
        decompress(image)
    syntax = UID(image.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated:
        media = f"{_MEDIA_TYPES.get(syntax, 'application/octet-stream')}; transfer-syntax={syntax}"
        return [(media, get_frame(image.PixelData, number - 1, number_of_frames=count)) for number in numbers]
    return [(f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}", _raw(image, n)) for n in numbers]


def pixel_data(image: Dataset) -> list[tuple[str, bytes]]:
    """All pixels of an image: one piece, or compressed frames; raises `UnknownError` where it has none."""
    if UID(image.file_meta.TransferSyntaxUID).is_encapsulated or "PixelData" not in image:
        return frames(image, range(1, max(1, frame_count(image)) + 1), uncompressed=False)
    return [("application/octet-stream", image.PixelData)]


def frame_count(image: Dataset) -> int:
    return int(image.get("NumberOfFrames") or 1) if "PixelData" in image else 0


def file_of(image: Dataset, *, uncompressed: bool) -> bytes:
    """The DICOM file of an image, in Explicit VR Little Endian where that is asked; 406 where it cannot be."""
    if uncompressed:
        decompress(image)
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    dcmwrite(file, image, enforce_file_format=True)
    return file.getvalue()


def decompress(image: Dataset) -> None:
    """Pixels as plain values, where they are compressed; 406 where there is no decoder for them here."""
    syntax = UID(image.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated:
        try:
            image.decompress(generate_instance_uid=False)
        except UNDECODABLE as error:
            raise undecodable(syntax) from error


def undecodable(syntax: UID) -> HTTPException:
    return HTTPException(406, f"{syntax.name} cannot be decoded here; ask for the images as they are stored.")


def _raw(image: Dataset, number: int) -> bytes:
    bits = image.Rows * image.Columns * image.SamplesPerPixel * image.BitsAllocated
    if bits % 8:
        raise HTTPException(406, "frames that do not end on a whole byte are only served with their instance")
    content: bytes = image.PixelData[(number - 1) * bits // 8 : number * bits // 8]
    if not UID(image.file_meta.TransferSyntaxUID).is_little_endian and image.BitsAllocated == 16:
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    return content
