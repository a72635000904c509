"""How QIDO-RS keys are matched (PS3.4 C.2.2.2, PS3.18 8.3.4): a query's keys and a DICOM JSON row in, yes or no out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_RANGES = ("DA", "TM", "DT")
_NUMBERS = ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "US or SS")
# Keys that may name several values, separated by commas or backslashes.
_LISTS = {"00080061"}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a row must match; `passed_over` are keywords of attributes that rows of this kind do not have."""

    tests: tuple[tuple[str, Callable[[str], bool]], ...]
    passed_over: tuple[str, ...]

    def match(self, row: Mapping[str, Any]) -> bool:
        return all(any(test(value) for value in _texts(row.get(tag))) for tag, test in self.tests)


def filters_of(asked: Mapping[str, str], matchable: frozenset[str], *, fuzzy: bool) -> Filters:
    """The filters of a query; what is no attribute at all is passed over in silence, as PS3.18 allows."""
    tests = []
    passed_over = []
    for key, value in asked.items():
        tag = tag_of(key)
        if tag in matchable and value not in ("", "*"):
            tests.append((tag, _test(tag, value, fuzzy)))
        elif tag and tag not in matchable:
            passed_over.append(keyword_for_tag(int(tag, 16)))
    return Filters(tests=tuple(tests), passed_over=tuple(passed_over))


def tag_of(key: str) -> str:
    """An attribute's tag as DICOM JSON writes it, from its tag or keyword; empty where it is none of the standard's."""
    tag = int(key, 16) if _TAG.fullmatch(key) else tag_for_keyword(key)
    return f"{tag:08X}" if tag is not None and keyword_for_tag(tag) else ""


def _test(tag: str, value: str, fuzzy: bool) -> Callable[[str], bool]:
    vr = dictionary_VR(int(tag, 16))
    if vr == "UI" or tag in _LISTS:
        several = set(re.split(r"[,\\]", value))
        return several.__contains__
    if vr in _RANGES and "-" in value:
        low, _, high = value.partition("-")
        return lambda text: bool(text) and (not low or low <= text) and (not high or text[: len(high)] <= high)
    if vr in _NUMBERS:
        return lambda text: _same_number(text, value)
    if vr == "PN" and fuzzy:
        parts = _parts(value)
        return lambda text: all(any(own.startswith(part) for own in _parts(text)) for part in parts)
    pattern = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in value)
    compiled = re.compile(pattern, re.IGNORECASE | re.DOTALL if vr == "PN" else re.DOTALL)
    return lambda text: compiled.fullmatch(text) is not None


def _parts(name: str) -> list[str]:
    """The words of a person's name, in any order and case (PS3.4 C.2.2.2.1.1)."""
    return [part for part in re.split(r"[\^=\s*]+", name.casefold()) if part]


def _same_number(text: str, value: str) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _texts(element: Mapping[str, Any] | None) -> list[str]:
    """An attribute's values as text; one that is absent or empty has none."""
    values = (element or {}).get("Value", [])
    return [
        value.get("Alphabetic", "") if isinstance(value, dict) else str(value) for value in values if value is not None
    ]
