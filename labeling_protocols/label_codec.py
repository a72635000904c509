"""Labels as bytes: a uint8 volume in, a short header and zstd-compressed voxels out, and back without loss."""

import json
import struct

import numpy as np
import zstandard

from labeling_protocols.geometry import Geometry, Volume

_MAGIC = b"OVRL\x01"
_LEVEL = 3


def encode_label(label: Volume) -> bytes:
    """Equal labels on equal grids give equal bytes, so a label's digest is its content's name."""
    if label.array_ZYX.dtype != np.uint8:
        raise ValueError(f"a label holds uint8 values, found {label.array_ZYX.dtype}")
    header = json.dumps(label.geometry.as_json(), sort_keys=True).encode()
    voxels = zstandard.ZstdCompressor(level=_LEVEL).compress(np.ascontiguousarray(label.array_ZYX).data)
    return _MAGIC + struct.pack("<I", len(header)) + header + voxels


def decode_label(content: bytes) -> Volume:
    """Raises `ValueError` where the bytes are not an encoded label."""
    if not content.startswith(_MAGIC):
        raise ValueError("not an encoded label: the file does not begin as one")
    start = len(_MAGIC) + 4
    (length,) = struct.unpack("<I", content[len(_MAGIC) : start])
    geometry = Geometry.from_json(json.loads(content[start : start + length]))
    voxels = zstandard.ZstdDecompressor().decompress(content[start + length :])
    array = np.frombuffer(voxels, dtype=np.uint8).reshape(geometry.shape_ZYX)
    return Volume(array_ZYX=array, geometry=geometry)
