"""Rendered images of DICOMweb (PS3.18 8.3.5): an image of the archive and how to show it in, a JPEG or PNG out.

They are drawn here wherever the pixels lie, never by an archive server, which may write a name into the picture.
"""

from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import UID

from apps.annotation.dicomweb_frames import UNDECODABLE, frame_count, undecodable
from labeling_protocols.store import UnknownError

SIDE_MAX = 8192  # pixels of a rendered picture


class Function(StrEnum):
    """How a window maps values (PS3.3 C.11.2.1.3), spelled as PS3.18 8.3.5.1.4 spells it."""

    LINEAR = "linear"
    LINEAR_EXACT = "linear-exact"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, kw_only=True)
class Window:
    """Centre and width in rescaled values; the width is positive, and 1 or more where the function is linear."""

    centre: float
    width: float
    function: Function = Function.LINEAR


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What picture is asked for; `viewport_XY` is the box it has to fit into, `quality` that of a JPEG, 1 to 100."""

    media_type: str = "image/jpeg"
    window: Window | None = None
    viewport_XY: tuple[int, int] | None = None
    quality: int = 90


def rendered(image: Dataset, frame: int, asked: Rendering) -> bytes:
    """A frame (1-based) as a picture; raises `UnknownError` for one there is none of, 406 where it is undecodable."""
    count = frame_count(image)
    if not 1 <= frame <= count:
        raise UnknownError(f"no such frame; this instance has {count}")
    try:
        stored = pixel_array(image, index=frame - 1)
    except UNDECODABLE as error:
        raise undecodable(UID(image.file_meta.TransferSyntaxUID)) from error
    shown = stored if stored.ndim == 3 else grey(image, stored, asked.window)
    picture = Image.fromarray(_bytes(shown))
    if asked.viewport_XY is not None:
        picture = _fitted(picture, asked.viewport_XY)
    file = BytesIO()
    picture.save(file, asked.media_type.removeprefix("image/"), quality=asked.quality)
    return file.getvalue()


def grey(image: Dataset, stored: NDArray[np.generic], window: Window | None) -> NDArray[np.float64]:
    """Shades from 0 (black) to 255: the window asked for, else what the header says, else all there is."""
    values = np.asarray(apply_modality_lut(stored, image), dtype=np.float64)
    window = window or _window_of(image)
    if window is None and "VOILUTSequence" in image:
        values = np.asarray(apply_voi_lut(values.astype(np.int64), image), dtype=np.float64)
    shades = windowed(values, window) if window is not None else _full_range(values)
    inverse = image.get("PhotometricInterpretation") == "MONOCHROME1"
    return 255.0 - shades if inverse != (image.get("PresentationLUTShape") == "INVERSE") else shades


def windowed(values: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 (linear) and C.11.2.1.3 (the others), onto 0 to 255."""
    centre, width = window.centre, window.width
    if window.function is Function.SIGMOID:
        return np.asarray(255.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700))))
    if window.function is Function.LINEAR_EXACT:
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0) * 255.0
    if width <= 1:
        return np.where(values > centre - 0.5, 255.0, 0.0)
    return np.clip((values - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0) * 255.0


def _window_of(image: Dataset) -> Window | None:
    """The header's first window."""
    centre, width = (_first(image.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 0:
        return None
    function = str(image.get("VOILUTFunction") or "LINEAR").replace("_", "-").lower()
    known = Function(function) if function in tuple(Function) else Function.LINEAR
    return Window(centre=centre, width=width, function=known)


def _first(value: object) -> float | None:
    if isinstance(value, MultiValue):
        value = next(iter(value), None)
    return None if value in (None, "") else float(str(value))


def _full_range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) * 255.0 if high > low else np.zeros_like(values)


def _bytes(shades: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.floor(shades.astype(np.float64) + 0.5).astype(np.uint8)


def _fitted(picture: Image.Image, viewport_XY: tuple[int, int]) -> Image.Image:
    """As large as fits, in the image's own proportions (PS3.18 8.3.5.1.3)."""
    scale = min(viewport_XY[0] / picture.width, viewport_XY[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BILINEAR)
