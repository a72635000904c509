"""Volume files from strangers: bytes in, nothing or a refusal out, before any library opens them.

A compressed file of a megabyte can say that it holds terabytes, and a NRRD header can name another file of this machine
as its data. SimpleITK makes room for as much as a header says and reads no more; pynrrd, which reads the files that
name segments, unpacks all there is, so those are unpacked here first, piece by piece and kept nowhere.
"""

import bz2
import math
import re
import struct
import zlib

from labeling_protocols.volumes import UnreadableVolumeError

NIFTI = (".nii.gz", ".nii")
NRRD = (".seg.nrrd", ".nrrd")
UPLOADED_SUFFIXES = (*NIFTI, *NRRD)

_HEADER_MAX = 1 << 20
_NIFTI_2 = 540  # bytes of the longer of the two headers
_SLACK = 1 << 16  # bytes that may follow the voxels
_PIECE = 1 << 18
_ELSEWHERE = {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"}
_FIELD = re.compile(r"([^:=]+):(=?)\s*(.*)")
_SEGMENT = re.compile(r"^Segment\d+_", re.MULTILINE)
_TYPE_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "uint64", "uint64_t", "double"), 8),
}


def uploaded_suffix(name: str) -> str:
    """The suffix of an uploaded volume's name, or ''."""
    return next((suffix for suffix in UPLOADED_SUFFIXES if name.lower().endswith(suffix)), "")


def require_bounded(content: bytes, suffix: str, voxels_max: int) -> None:
    """Raise `UnreadableVolumeError` for a file of more voxels than these, or one that is not whole in itself."""
    if suffix in NIFTI:
        sizes, bits, offset = _nifti_header(_begun(content) if suffix == ".nii.gz" else content[:_NIFTI_2])
        if not 0 <= offset <= _HEADER_MAX or not 0 < bits <= 256:
            raise UnreadableVolumeError("NIfTI file could not be read: its header is damaged")
        _require_room(sizes, voxels_max)
    elif suffix in NRRD:
        _require_bounded_nrrd(content, voxels_max)
    else:
        expected = ", ".join(UPLOADED_SUFFIXES)
        raise UnreadableVolumeError(f"expected a volume file ({expected}), found {suffix or 'no suffix'!r}")


def names_segments(content: bytes) -> bool:
    """Whether this NRRD file says what its segments are called, as 3D Slicer's segmentations do."""
    return _SEGMENT.search(_nrrd_header(content)[0]) is not None


def _nifti_header(head: bytes) -> tuple[tuple[int, ...], int, int]:
    """Sizes, bits a voxel and where the voxels begin (https://nifti.nimh.nih.gov, nifti1.h and nifti2.h)."""
    if len(head) < 348:
        raise UnreadableVolumeError("NIfTI file could not be read: it ends within its header")
    order = "<" if head[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
    [length] = struct.unpack_from(f"{order}i", head)
    if length == 348 and head[344:347] == b"n+1":
        dim = struct.unpack_from(f"{order}8h", head, 40)
        [bits] = struct.unpack_from(f"{order}h", head, 72)
        [start] = struct.unpack_from(f"{order}f", head, 108)
        offset = int(start) if math.isfinite(start) else -1
    elif length == 540 and head[4:7] == b"n+2" and len(head) >= 540:
        dim = struct.unpack_from(f"{order}8q", head, 16)
        [bits] = struct.unpack_from(f"{order}h", head, 14)
        [offset] = struct.unpack_from(f"{order}q", head, 168)
    else:  # also the format's two-file form, whose voxels would be sought in another file
        raise UnreadableVolumeError("NIfTI file could not be read: expected one file with header and voxels (n+1, n+2)")
    axes = dim[0]
    if not 1 <= axes <= 7 or min(dim[1 : axes + 1]) < 1:
        raise UnreadableVolumeError("NIfTI file could not be read: its header gives no sizes")
    return dim[1 : axes + 1], bits, offset


def _require_bounded_nrrd(content: bytes, voxels_max: int) -> None:
    header, start = _nrrd_header(content)
    fields = _nrrd_fields(header.splitlines()[1:])
    if _ELSEWHERE & fields.keys():
        raise UnreadableVolumeError("the NRRD file keeps its data elsewhere; one file with its data was expected")
    try:
        sizes = tuple(int(size) for size in fields["sizes"].split())
        voxel_bytes = _TYPE_BYTES[fields["type"].lower()]
    except (KeyError, ValueError) as error:
        raise UnreadableVolumeError(
            "NRRD file could not be read: its header gives no sizes or no known type"
        ) from error
    if not 1 <= len(sizes) <= 8 or min(sizes) < 1:
        raise UnreadableVolumeError("NRRD file could not be read: its header gives no sizes")
    _require_room(sizes, voxels_max)
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz", "bzip2", "bz2"):
        raise UnreadableVolumeError(f"the NRRD file's encoding is {encoding[:20]!a}; expected raw, gzip or bzip2")
    if encoding != "raw" and names_segments(content):
        limit = math.prod(sizes) * voxel_bytes + _SLACK
        (_unpack_gzip if encoding.startswith("g") else _unpack_bzip2)(content[start:], limit)


def _nrrd_header(content: bytes) -> tuple[str, int]:
    """The header's text, and where the data begin."""
    if content[:4] != b"NRRD":
        raise UnreadableVolumeError("NRRD file could not be read: it is no NRRD file")
    found = re.search(rb"\r?\n\r?\n", content[:_HEADER_MAX])
    if found is None:
        raise UnreadableVolumeError("NRRD file could not be read: no data follow its header")
    try:
        return content[: found.start()].decode(), found.end()
    except UnicodeDecodeError as error:
        raise UnreadableVolumeError("NRRD file could not be read: its header is no text") from error


def _nrrd_fields(lines: list[str]) -> dict[str, str]:
    """The header's fields, each once: what two libraries could take differently is read by none."""
    fields: dict[str, str] = {}
    for line in lines:
        matched = _FIELD.fullmatch(line)
        if line.startswith("#") or (matched and matched[2]):
            continue
        name = " ".join(matched[1].lower().split()) if matched else ""
        if not name or name in fields:
            raise UnreadableVolumeError("NRRD file could not be read: its header is damaged, or gives a field twice")
        fields[name] = matched[3].strip() if matched else ""
    return fields


def _require_room(sizes: tuple[int, ...], voxels_max: int) -> None:
    if math.prod(sizes) > voxels_max:
        raise UnreadableVolumeError(
            f"the file says that it has {math.prod(sizes):,} voxels; at most {voxels_max:,} were expected here"
        )


def _begun(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(content, _NIFTI_2)
    except zlib.error as error:
        raise UnreadableVolumeError("NIfTI file could not be read: it is no gzip file") from error


def _unpack_gzip(content: bytes, limit: int) -> None:
    """Unpack, and forget, a gzip file of one or several members; raises where it is longer than the limit."""
    length, rest = 0, content
    try:
        while rest:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                part = member.decompress(rest, _PIECE)
                rest, length = member.unconsumed_tail, length + len(part)
                if length > limit:
                    raise UnreadableVolumeError("the NRRD file holds more than its header says")
                if not (part or rest or member.eof):
                    raise UnreadableVolumeError("NRRD file could not be read: it ends too early")
            rest = member.unused_data
    except zlib.error as error:
        raise UnreadableVolumeError("NRRD file could not be read: its compressed data are damaged") from error


def _unpack_bzip2(content: bytes, limit: int) -> None:
    length, rest = 0, content
    try:
        while rest:
            unpacker = bz2.BZ2Decompressor()
            while not unpacker.eof:
                part = unpacker.decompress(rest, _PIECE)
                rest, length = b"", length + len(part)
                if length > limit:
                    raise UnreadableVolumeError("the NRRD file holds more than its header says")
                if unpacker.needs_input and not part and not unpacker.eof:
                    raise UnreadableVolumeError("NRRD file could not be read: it ends too early")
            rest = unpacker.unused_data
    except OSError as error:
        raise UnreadableVolumeError("NRRD file could not be read: its compressed data are damaged") from error
