"""Elements of a DICOM object that may be hostile in; what was expected of them, or a refusal in words, out.

Everything that is read of a segmentation goes through here: pydicom parses an element when it is first looked at and
raises whatever its parser meets.
"""

import math
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence


class SegError(ValueError):
    """A segmentation that cannot be written or mapped to a protocol: what was found, what was expected."""


def value_of(item: Dataset, keyword: str) -> Any:
    """An element's value, or None where it is absent or empty."""
    try:
        value = item.get(keyword)
    except Exception as error:  # a damaged element fails in whatever way pydicom's parser fails
        raise SegError(f"{keyword} cannot be read ({type(error).__name__}); the file is damaged") from error
    return None if isinstance(value, str) and value == "" else value


def items_of(item: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent."""
    value = value_of(item, keyword)
    if value is None:
        return []
    if not isinstance(value, DicomSequence):
        raise SegError(f"{keyword} is no sequence of items; the file is damaged")
    return list(value)


def one_item(item: Dataset, keyword: str, where: str) -> Dataset:
    """The first item of a sequence that has to be there; `where` says whose it is."""
    found = items_of(item, keyword)
    if not found:
        raise SegError(f"{where} has no {keyword}; nothing was read")
    return found[0]


def whole_number(item: Dataset, keyword: str, where: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    value = value_of(item, keyword)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not least <= number <= most:
        found = "missing" if value is None else ascii(value)[:40]
        raise SegError(f"{where}: {keyword} is {found}; a number from {least} to {most} was expected")
    return number


def numbers(item: Dataset, keyword: str, count: int, where: str) -> tuple[float, ...]:
    """So many finite numbers."""
    value = value_of(item, keyword)
    try:
        found = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        found = ()
    if len(found) != count or not all(math.isfinite(number) for number in found):
        raise SegError(f"{where}: {keyword} is no list of {count} finite numbers; it cannot be placed")
    return found


def text_of(item: Dataset, keyword: str) -> str:
    """A text without the blanks around it, or ''."""
    value = value_of(item, keyword)
    return "" if value is None else str(value).strip()
