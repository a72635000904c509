"""The bytes of a file that claims to be a DICOM Segmentation in, its dataset out, or a refusal in words.

Files without a preamble are read, and deflated ones within a bound; what pydicom cannot parse, and what is no
segmentation, is refused.
"""

import warnings
import zlib
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from labeling_protocols.dicom_items import SegError, text_of

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
INFLATED_MAX_BYTES = 512 << 20

_PREAMBLE = 128
_GROUPS = (b"\x02\x00", b"\x08\x00")  # what a file without preamble begins with, PS3.10 7.1


def seg_from_bytes(content: bytes, inflated_max: int = INFLATED_MAX_BYTES) -> Dataset:
    """The segmentation in a file's bytes; its pixel data stay packed. Raises `SegError`."""
    has_preamble = content[_PREAMBLE : _PREAMBLE + 4] == b"DICM"
    if not has_preamble and content[:2] not in _GROUPS:
        raise SegError("the file is not DICOM: neither a preamble nor an element begins it; nothing was read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd in it is judged when it is read onto a grid
            seg = _parsed(content, has_preamble, inflated_max)
            kind = text_of(seg, "SOPClassUID")
    except SegError:
        raise
    except Exception as error:  # a parser meets damage of every kind, too deep a nesting among it
        raise SegError(f"the file cannot be read as DICOM ({type(error).__name__}); nothing was read") from error
    if kind not in (SEGMENTATION_STORAGE, LABEL_MAP_STORAGE):
        found = UID(kind).name[:64] if kind else "an object without SOP Class UID"
        raise SegError(f"found {found}; a DICOM segmentation was expected")
    return seg


def _parsed(content: bytes, has_preamble: bool, inflated_max: int) -> FileDataset:
    if not has_preamble:
        return dcmread(BytesIO(content), force=True)
    file = BytesIO(content)
    file.seek(_PREAMBLE + 4)
    # The meta information alone: dcmread() would inflate what follows without a bound.
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2))
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return dcmread(BytesIO(content))
    plain = _inflated(content[file.tell() :], inflated_max)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    inner = dcmread(BytesIO(plain), force=True)
    return FileDataset("", inner, file_meta=meta, preamble=b"\0" * _PREAMBLE, is_implicit_VR=False)


def _inflated(packed: bytes, most: int) -> bytes:
    """What a deflated dataset holds (PS3.5 A.5), within a bound."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = unpacker.decompress(packed, most)
    if unpacker.unconsumed_tail:
        raise SegError(f"the deflated file holds more than {most:,} bytes; nothing was read")
    return plain
