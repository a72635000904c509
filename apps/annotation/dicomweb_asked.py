"""What a DICOMweb request asks for (PS3.18 8.3, 8.7): path, query and Accept header in, checked values or 400 out."""

import math
import re
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from pydicom.uid import ExplicitVRLittleEndian

from apps.annotation.dicomweb_rendered import SIDE_MAX, Function, Rendering, Window
from labeling_protocols.store import UnknownError

_UID = re.compile(r"[0-9.]{1,64}")
_FRAMES = re.compile(r"\d{1,6}(,\d{1,6}){0,999}")
_CONTROL = {"limit", "offset", "fuzzymatching", "includefield"}
_PICTURES = {"image/jpeg": "image/jpeg", "image/jpg": "image/jpeg", "image/png": "image/png"}
_ANY = ("", "*/*", "image/*")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a path names: everything, a study, a series, an instance, or frames of one (1-based)."""

    study: str | None = None
    series: str | None = None
    instance: str | None = None
    frames: tuple[int, ...] = (1,)


def anywhere() -> Place:
    return Place()


def in_study(study: str) -> Place:
    return Place(study=_uid(study))


def in_series(study: str, series: str) -> Place:
    return Place(study=_uid(study), series=_uid(series))


def in_instance(study: str, series: str, instance: str) -> Place:
    return Place(study=_uid(study), series=_uid(series), instance=_uid(instance))


def in_frames(study: str, series: str, instance: str, numbers: str) -> Place:
    if not _FRAMES.fullmatch(numbers):
        raise HTTPException(400, "expected frame numbers separated by commas")
    frames = tuple(int(number) for number in numbers.split(","))
    return Place(study=_uid(study), series=_uid(series), instance=_uid(instance), frames=frames)


def _uid(text: str) -> str:
    if not _UID.fullmatch(text):
        raise UnknownError("a UID has digits and dots only, 64 at most")
    return text


def search_of(request: Request) -> dict[str, Any]:
    """QIDO-RS parameters as the index's search methods take them."""
    query = request.query_params
    try:
        counts = {name: int(query[name]) for name in ("limit", "offset") if name in query}
    except ValueError as error:
        raise HTTPException(400, "limit and offset must be whole numbers") from error
    if any(not 0 <= count < 2**31 for count in counts.values()):
        raise HTTPException(400, "limit and offset must not be negative")
    fields = [field for text in query.getlist("includefield") for field in text.split(",") if field]
    filters = {key: value for key, value in query.items() if key.lower() not in _CONTROL and value}
    fuzzy = query.get("fuzzymatching", "").lower() == "true"
    return {**counts, "fuzzymatching": fuzzy, "fields": fields, "search_filters": filters}


def wants_uncompressed(request: Request) -> bool:
    """Whether the Accept header names the one syntax that everybody can read, and leaves no other open."""
    accept = _accept(request)
    if "transfer-syntax" in accept:
        return all(
            syntax.strip('"') == ExplicitVRLittleEndian for syntax in re.findall(r'transfer-syntax=("?[\d.*]+)', accept)
        )
    return "application/octet-stream" in accept and "image/" not in accept and "*/*" not in accept


def wants_one_file(request: Request) -> bool:
    """Whether an instance is asked for as it is, not as the only part of a multipart answer."""
    accept = _accept(request)
    return accept.startswith("application/dicom") and "multipart" not in accept and "json" not in accept


def rendering_of(request: Request, *, viewport_XY: tuple[int, int] | None = None) -> Rendering:
    """Which picture is asked for; `annotation` and `iccprofile` are not drawn, nothing is written into a picture."""
    query = request.query_params
    kinds = [kind.partition(";")[0].strip() for kind in (query.get("accept") or _accept(request)).lower().split(",")]
    chosen = next((_PICTURES.get(kind, "image/jpeg") for kind in kinds if kind in _PICTURES or kind in _ANY), None)
    if chosen is None:
        raise HTTPException(406, "pictures are rendered as image/jpeg or image/png")
    quality = _number(query.get("quality", "90"), "quality")
    if not 1 <= quality <= 100:
        raise HTTPException(400, "quality must be a number from 1 to 100")
    return Rendering(
        media_type=chosen,
        window=_window(query["window"]) if "window" in query else None,
        viewport_XY=_viewport(query["viewport"]) if "viewport" in query else viewport_XY,
        quality=round(quality),
    )


def _window(text: str) -> Window:
    parts = text.split(",")
    if len(parts) != 3 or parts[2].strip().lower() not in tuple(Function):
        raise HTTPException(400, f"expected window=centre,width,function with a function of {', '.join(Function)}")
    function = Function(parts[2].strip().lower())
    centre, width = _number(parts[0], "window"), _number(parts[1], "window")
    if width < 1 if function is Function.LINEAR else width <= 0:
        raise HTTPException(400, "the window's width must be positive, and at least 1 for linear")
    return Window(centre=centre, width=width, function=function)


def _viewport(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2:
        raise HTTPException(400, "expected viewport=width,height; regions of an image are not served")
    width, height = (round(_number(part, "viewport")) for part in parts)
    if not (1 <= width <= SIDE_MAX and 1 <= height <= SIDE_MAX):
        raise HTTPException(400, f"the viewport's sides must be from 1 to {SIDE_MAX} pixels")
    return width, height


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise HTTPException(400, f"{name} must be a finite number")
    return number


def _accept(request: Request) -> str:
    return request.headers.get("accept", "").strip()
