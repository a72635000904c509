"""An XML file of the LIDC-IDRI in, its radiologists' own readings of one CT scan out, or a refusal in words.

After two phases, alone and then seeing the others' marks, each of up to four radiologists gave his last word in one
`readingSession` (Armato et al. 2011, Med Phys 38:915). Who he was is not told, and the order of the sessions in a file
says nothing: the first reader of one scan is not the first of another. Refusals name sessions, marks and places by
number, never an identifier of the file, so that they can be logged.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

BYTES_MAX = 32 << 20  # the collection's largest files have about 2 MB
_ELEMENTS_MAX = 500_000
_DEPTH_MAX = 16
_COORDINATE = re.compile(r"-?[0-9]{1,5}")
_RATING = re.compile(r"[0-9]")

# The nine characteristics, as the files and as protocols call them, with the highest rating of each; the lowest is 1.
CHARACTERISTICS = {
    "subtlety": ("subtlety", 5),
    "internalStructure": ("internal_structure", 4),
    "calcification": ("calcification", 6),
    "sphericity": ("sphericity", 5),
    "margin": ("margin", 5),
    "lobulation": ("lobulation", 5),
    "spiculation": ("spiculation", 5),
    "texture": ("texture", 5),
    "malignancy": ("malignancy", 5),
}


class LidcError(ValueError):
    """A file that gives no readings: what was found, where, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Contour:
    """One closed line on one slice, as pixels (column, row) counted from 0.

    `inclusion` says whether what it encloses is part of the nodule, or a hole in it.
    """

    sop_uid: str
    z_mm: float
    inclusion: bool
    points_XY: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Nodule:
    """One nodule of one reading; `ratings` go by the names of protocols and may be incomplete."""

    ratings: Mapping[str, int]
    contours: tuple[Contour, ...]

    @property
    def below_3_mm(self) -> bool:
        """Only the middle of a nodule below 3 mm is marked, and nothing said of it."""
        return not self.ratings and all(len(contour.points_XY) == 1 for contour in self.contours)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One radiologist's reading; of each lesion that he called no nodule, only its z."""

    nodules: tuple[Nodule, ...]
    non_nodules_mm: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LidcScan:
    """What one file says: the Series Instance UID of its CT scan and the readings, in the file's order."""

    series_uid: str
    readings: tuple[Reading, ...]


def read_lidc(path: Path) -> LidcScan:
    """The readings in a file; raises `LidcError` for one that is too large, hostile or none of the LIDC's."""
    with path.open("rb") as file:
        content = file.read(BYTES_MAX + 1)
    return parse_lidc(content)


def parse_lidc(content: bytes) -> LidcScan:
    """The readings in a file's bytes; raises `LidcError`."""
    if len(content) > BYTES_MAX:
        raise LidcError(f"the file is larger than {BYTES_MAX >> 20} MB; the readings of one scan were expected")
    root = _tree(content)
    sessions = _children(root, "readingSession")
    if root.tag != "LidcReadMessage" or not sessions:
        raise LidcError(f"expected a LidcReadMessage with readingSessions{_instead(root)}")
    return LidcScan(
        series_uid=_series_uid(root),
        readings=tuple(_reading(session, f"reading {number}") for number, session in enumerate(sessions, 1)),
    )


# The file's elements


def _tree(content: bytes) -> Element:
    """The file's root element, its namespace left off. No document type is read, so no entity can be declared."""
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator="}")
    depth = elements = 0

    def start(name: str, _: Mapping[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > _DEPTH_MAX or elements > _ELEMENTS_MAX:
            raise LidcError(f"more than {_DEPTH_MAX} elements in each other, or {_ELEMENTS_MAX:,} in all")
        builder.start(name.rpartition("}")[2], {})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name.rpartition("}")[2])

    def doctype(*_: object) -> None:
        raise LidcError("the file declares a document type, which could declare entities; plain XML was expected")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, doctype
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError) as error:
        if isinstance(error, LidcError):
            raise
        raise LidcError(f"the file is no whole XML ({error})") from error
    return builder.close()


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if child.tag == name]


def _text(element: Element, name: str) -> str:
    """What the first such child says, '' where there is none."""
    return next(((child.text or "").strip() for child in element if child.tag == name), "")


def _instead(root: Element) -> str:
    if root.tag == "IdriReadMessage" or _children(root, "CXRreadingSession"):
        return ", found readings of a chest radiograph"
    return "" if root.tag != "LidcReadMessage" else ", found none"


def _series_uid(root: Element) -> str:
    named = [_text(header, "SeriesInstanceUid") for header in _children(root, "ResponseHeader")]
    if not any(named):
        raise LidcError("the file does not say of which series it is; a SeriesInstanceUid was expected in its header")
    return next(filter(None, named))


# What they say


def _reading(session: Element, where: str) -> Reading:
    known = {"annotationVersion", "servicingRadiologistID", "unblindedReadNodule", "nonNodule"}
    if strange := sum(child.tag not in known for child in session):
        raise LidcError(f"{where} holds {strange} element(s) of an unknown kind; unblinded reads were expected")
    nodules = _children(session, "unblindedReadNodule")
    return Reading(
        nodules=tuple(_nodule(nodule, f"{where}, nodule {number}") for number, nodule in enumerate(nodules, 1)),
        non_nodules_mm=tuple(_z_mm(mark, where) for mark in _children(session, "nonNodule")),
    )


def _nodule(nodule: Element, where: str) -> Nodule:
    contours = tuple(_contour(roi, where) for roi in _children(nodule, "roi"))
    if not contours:
        raise LidcError(f"{where} is marked on no slice; a roi was expected")
    ratings = {name: value for told in _children(nodule, "characteristics") for name, value in _ratings(told, where)}
    return Nodule(ratings=ratings, contours=contours)


def _ratings(characteristics: Element, where: str) -> Iterator[tuple[str, int]]:
    """Each rating that was given; 0 and nothing stand for one that was not."""
    for told, (name, highest) in CHARACTERISTICS.items():
        text = _text(characteristics, told) or "0"
        if not _RATING.fullmatch(text) or int(text) > highest:
            raise LidcError(f"{where}: {name} is rated {text[:8]!a}; expected 1 to {highest}")
        if int(text):
            yield name, int(text)


def _contour(roi: Element, where: str) -> Contour:
    uid, told = _text(roi, "imageSOP_UID"), _text(roi, "inclusion").upper()
    points = tuple(
        (_coordinate(edge, "xCoord", where), _coordinate(edge, "yCoord", where)) for edge in _children(roi, "edgeMap")
    )
    if not uid or not points:
        raise LidcError(f"{where} has a roi without {'points' if uid else 'an image'}; both were expected")
    if told not in ("TRUE", "FALSE"):
        raise LidcError(f"{where} has a roi whose inclusion is {told[:8]!a}; expected TRUE or FALSE")
    return Contour(sop_uid=uid, z_mm=_z_mm(roi, where), inclusion=told == "TRUE", points_XY=points)


def _coordinate(edge: Element, name: str, where: str) -> int:
    text = _text(edge, name)
    if not _COORDINATE.fullmatch(text):
        raise LidcError(f"{where} has a point whose {name} is {text[:8]!a}; a whole number was expected")
    return int(text)


def _z_mm(mark: Element, where: str) -> float:
    text = _text(mark, "imageZposition")
    try:
        z_mm = float(text)
    except ValueError:
        z_mm = math.nan
    if not math.isfinite(z_mm):
        raise LidcError(f"{where} has a mark whose imageZposition is {text[:8]!a}; a number was expected")
    return z_mm
