"""What evaluation is broken down by: attributes of a case's scanner and of who was scanned in, groups of cases out.

Nothing here identifies: ages are bands of ten years, all from 90 on in one, which is HIPAA's safe harbour
(45 CFR 164.514(b)(2)(i)(C)); no date, serial number, station or institution has a place.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

ATTRIBUTES = ("maker", "model", "slice_thickness", "sex", "age_band", "site")
SEXES = ("F", "M", "O")  # PS3.3 C.7.1.1, Patient's Sex
WORDS_MAX = 64
_OLDEST_YEARS = 90
_BANDS_MM = ((1.0, "<=1 mm"), (3.0, "1-3 mm"), (5.0, "3-5 mm"))  # upper bounds, which belong to their band
_THICKEST = ">5 mm"
_BAND = re.compile(r"[0-8]0-[0-8]9|90\+")


class StrataError(ValueError):
    """A value that no case may carry: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True)
class Strata:
    """What evaluation is broken down by; None where it is not known.

    `maker` and `model` are the scanner's, `slice_thickness_mm` the distance between slices, `sex` one of `SEXES`,
    `age_band` as `age_band` gives it and `site` a name given when the case was brought in. Raises `StrataError`.
    """

    maker: str | None = None
    model: str | None = None
    slice_thickness_mm: float | None = None
    sex: str | None = None
    age_band: str | None = None
    site: str | None = None

    def __post_init__(self) -> None:
        for name in ("maker", "model", "site"):
            words = getattr(self, name)
            if words is not None and (words != words.strip() or not 0 < len(words) <= WORDS_MAX):
                raise StrataError(f"found a {name} of {len(words)} characters; expected 1 to {WORDS_MAX}, trimmed")
        if self.sex is not None and self.sex not in SEXES:
            raise StrataError(f"found a sex that is none of {', '.join(SEXES)}")
        if self.age_band is not None and not _is_band(self.age_band):
            raise StrataError("found an age that is no band of ten years; expected one such as 00-09, 40-49 or 90+")
        thickness = self.slice_thickness_mm
        if thickness is not None and not (math.isfinite(thickness) and thickness > 0):
            raise StrataError(f"found slices {thickness} mm thick; expected a number above 0")

    def group(self, attribute: str) -> str | None:
        """The group of cases this one belongs to by an attribute of `ATTRIBUTES`; None where it is not known.

        Raises `StrataError` for an attribute that is none of them.
        """
        if attribute not in ATTRIBUTES:
            raise StrataError(f"cases have no attribute {attribute!r}; expected one of {', '.join(ATTRIBUTES)}")
        if attribute == "slice_thickness":
            return _thickness_band(self.slice_thickness_mm)
        value: str | None = getattr(self, attribute)
        return value

    @property
    def known(self) -> bool:
        """Whether anything is known of the case."""
        return self != Strata()

    def filled_from(self, other: "Strata") -> "Strata":
        """These strata; what is not known of them as it is in `other`."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return Strata(**{**asdict(other), **known})

    def as_json(self) -> dict[str, str | float | None]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, str | float | None] | None) -> "Strata":
        """Strata as they are stored; unknown ones for None, which older databases and snapshots have.

        Raises `StrataError` where something is stored that no case may carry.
        """
        if stored is None:
            return cls()
        names = {field.name for field in fields(cls)}
        if more := sorted(set(stored) - names):
            raise StrataError(f"found {', '.join(more)} among a case's strata; expected {', '.join(sorted(names))}")
        return cls(**stored)  # type: ignore[arg-type]  # each value is checked as the strata are made


def age_band(years: int) -> str:
    """The band of ten years that an age in whole years lies in; 90 and more are one band."""
    if years >= _OLDEST_YEARS:
        return f"{_OLDEST_YEARS}+"
    first = years // 10 * 10
    return f"{first:02d}-{first + 9:02d}" if first else "00-09"


def _is_band(words: str) -> bool:
    return bool(_BAND.fullmatch(words)) and (words.endswith("+") or words[0] == words[3])


def _thickness_band(thickness_mm: float | None) -> str | None:
    if thickness_mm is None:
        return None
    return next((words for upper, words in _BANDS_MM if thickness_mm <= upper), _THICKEST)
