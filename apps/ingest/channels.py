"""Which of the images that come in are channels of one case: files and series in, groups by channel out.

Volumes belong together by name: NAME_0000, NAME_0001 … in the protocol's order, as nnU-Net names them, or by suffixes
that the operator tells; or they are one file with a fourth axis. DICOM series belong together by study, and which is
which channel is told by patterns over header elements: nothing in a header says it by itself.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword

from apps.ingest.deidentify import new_uid, pseudonym_of
from apps.settings import Site
from labeling_protocols.channels import Channel, ChannelsError, onto_grid, require_channels
from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.series import Series, SeriesFiles
from labeling_protocols.volumes import read_channels, read_volume, suffix_of

_NUMBERED = re.compile(r"(?P<stem>.+)(?P<suffix>_(?P<number>\d{4}))")
# What names a patient or his visit says nothing of a channel, and must not become part of a rule that is shared.
_NOT_ASKED = ("Patient", "StudyDate", "StudyTime", "AccessionNumber", "Institution", "Physician", "Operator")


class ChannelRuleError(ValueError):
    """A rule that cannot tell channels apart: what was found, what was expected; nothing was read."""


@dataclass(frozen=True, kw_only=True)
class ChannelRules:
    """How the operator tells channels apart: by the end of a file's name, by patterns over header elements."""

    suffixes: Mapping[str, str] = field(default_factory=dict)
    elements: Mapping[str, tuple[tuple[str, re.Pattern[str]], ...]] = field(default_factory=dict)

    @property
    def keywords(self) -> set[str]:
        return {keyword for patterns in self.elements.values() for keyword, _ in patterns}


@dataclass(frozen=True, kw_only=True)
class VolumeGroup:
    """Files of one case: by channel, or one file, under "", with all channels along its fourth axis.

    `path` is what the case is called by: the file's own, or one named as the files are without their suffixes.
    """

    path: Path
    files: Mapping[str, Path]

    @property
    def first(self) -> Path:
        """The file that stands for the case in tables: the first channel's where it is there."""
        return next(iter(self.files.values()))


@dataclass(frozen=True, kw_only=True)
class SeriesGroup:
    """Series of one study by channel, and why they make no case, where they do not."""

    series: Mapping[str, tuple[SeriesFiles, ...]]
    refusal: str = ""

    @property
    def all(self) -> tuple[SeriesFiles, ...]:
        return tuple(one for found in self.series.values() for one in found)


def read_rules(told: Sequence[str], protocol: Protocol) -> ChannelRules:
    """Rules from the operator's words: CHANNEL=_SUFFIX of file names, or CHANNEL=Keyword:PATTERN of DICOM headers.

    Several patterns for a channel have to hold together; an element of several values is matched as they are written,
    with backslashes between. Raises `ChannelRuleError`.
    """
    suffixes: dict[str, str] = {}
    elements: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for one in told:
        channel, separator, rule = one.partition("=")
        if not separator or not rule or channel not in protocol.channels:
            known = ", ".join(protocol.channels) or "none: its cases are one image"
            raise ChannelRuleError(
                f"--channel {one!r}: expected CHANNEL=_SUFFIX or CHANNEL=Keyword:PATTERN; the channels of protocol"
                f" {protocol.name} are {known}. Nothing was read."
            )
        keyword, separator, pattern = rule.partition(":")
        if separator:
            elements.setdefault(channel, []).append((_element(keyword, one), _pattern(pattern, one)))
        elif suffixes.setdefault(channel, rule) != rule:
            raise ChannelRuleError(f"--channel {one!r}: channel {channel} has a suffix already. Nothing was read.")
    return ChannelRules(suffixes=suffixes, elements={name: tuple(found) for name, found in elements.items()})


def _element(keyword: str, told: str) -> str:
    if tag_for_keyword(keyword) is None or keyword.startswith(_NOT_ASKED):
        raise ChannelRuleError(
            f"--channel {told!r}: expected the keyword of a DICOM element that describes an acquisition, such as"
            f" ScanningSequence or InversionTime; found {keyword!r}. Nothing was read."
        )
    return keyword


def _pattern(text: str, told: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ChannelRuleError(f"--channel {told!r}: not a regular expression ({error}). Nothing was read.") from error


# Volumes


def group_volumes(volumes: Iterable[Path], protocol: Protocol, rules: ChannelRules) -> list[VolumeGroup]:
    """Files by case, channels in the protocol's order; a file whose name tells no channel stands alone."""
    grouped: dict[Path, dict[str, Path]] = {}
    alone = []
    for path in volumes:
        stem, ending = path.name[: -len(suffix_of(path.name))], suffix_of(path.name)
        found = _named(stem, protocol, rules)
        if found is None:
            alone.append(VolumeGroup(path=path, files={"": path}))
        else:
            case, channel = found
            files = grouped.setdefault(path.with_name(case + ending), {})
            files[channel if channel not in files else f"{channel} (twice)"] = path
    order = {name: place for place, name in enumerate(protocol.channels)}
    groups = [
        VolumeGroup(path=path, files=dict(sorted(files.items(), key=lambda item: order.get(item[0], len(order)))))
        for path, files in grouped.items()
    ]
    return sorted([*alone, *groups], key=lambda group: group.path)


def _named(stem: str, protocol: Protocol, rules: ChannelRules) -> tuple[str, str] | None:
    """What a file's case is called and its channel, from its name; None where it tells none."""
    for channel, suffix in rules.suffixes.items():
        if stem.endswith(suffix) and stem != suffix:
            return stem.removesuffix(suffix), channel
    numbered = None if rules.suffixes else _NUMBERED.fullmatch(stem)
    if numbered is None:
        return None
    number = int(numbered["number"])
    known = protocol.channels[number] if number < len(protocol.channels) else numbered["suffix"]
    return numbered["stem"], known


def read_group(group: VolumeGroup, protocol: Protocol) -> tuple[Volume, list[Channel]]:
    """The first channel and the further ones, on one grid; raises `ChannelsError` or `UnreadableVolumeError`.

    A file does not say in which frame of reference it lies, so that nothing but the same grid says "registered".
    """
    if "" in group.files:
        volumes = read_channels(group.first)
        if len(volumes) != len(protocol.channels):
            raise ChannelsError(
                f"it holds {len(volumes)} image(s); expected {len(protocol.channels)} ({', '.join(protocol.channels)})"
                " along a fourth axis, or a file each, named NAME_0000, NAME_0001 and on. No case was made."
            )
        named = dict(zip(protocol.channels, volumes, strict=True))
    else:
        require_channels(protocol.channels, list(group.files))
        named = {channel: read_volume(path) for channel, path in group.files.items()}
    first, *further = protocol.channels
    return named[first], [Channel(name=name, volume=named[name]) for name in further]


# DICOM series


def group_series(found: Iterable[SeriesFiles], protocol: Protocol, rules: ChannelRules) -> list[SeriesGroup]:
    """Series by study and channel; a series that is no channel is a group of its own, with the reason."""
    studies: dict[str, dict[str, list[SeriesFiles]]] = {}
    groups = []
    for one in found:
        header = _header(one.files[0], rules.keywords)
        named = [name for name in protocol.channels if _is(header, rules.elements.get(name, ()))]
        if len(named) == 1:
            study = studies.setdefault(str(header.get("StudyInstanceUID", "")), {})
            study.setdefault(named[0], []).append(one)
        else:
            groups.append(SeriesGroup(series={"": (one,)}, refusal=_no_channel(named, protocol, rules)))
    for study in studies.values():
        series = {name: tuple(study[name]) for name in protocol.channels if name in study}
        groups.append(SeriesGroup(series=series, refusal=_no_case(series, protocol)))
    return groups


def further_channels(series: Mapping[str, Series], site: Site, protocol: Protocol) -> list[Channel]:
    """The channels after the first, on its grid; raises `ChannelsError` where they are not of its frame of reference.

    The same frame of reference (0020,0052) is what DICOM has to say that two series are registered (PS3.3 C.7.4.1).
    """
    name, *further = protocol.channels
    first = series[name]
    channels = []
    for other in further:
        _require_one_patient_and_frame(first, series[other], name, other, site)
        volume, resampled = onto_grid(series[other].volume, first.volume.geometry, other)
        uid = new_uid(site.secret, str(series[other].sources[0].SeriesInstanceUID))
        channels.append(Channel(name=other, volume=volume, series=uid, resampled=resampled))
    return channels


def _require_one_patient_and_frame(first: Series, other: Series, name: str, further: str, site: Site) -> None:
    headers = (first.sources[0], other.sources[0])
    if len({pseudonym_of(header, site.secret) for header in headers}) > 1:
        raise ChannelsError(f"channels {name} and {further} are of different patients. No case was made.")
    ours, theirs = (str(header.get("FrameOfReferenceUID", "") or "") for header in headers)
    if not ours or ours != theirs:
        found = "do not say in which frame of reference they lie" if not (ours and theirs) else "lie in different ones"
        raise ChannelsError(
            f"channels {name} and {further} {found}; expected one frame of reference, registered series."
            " No case was made."
        )


def _header(path: Path, keywords: set[str]) -> Dataset:
    return dcmread(path, stop_before_pixels=True, force=True, specific_tags=["StudyInstanceUID", *sorted(keywords)])


def _is(header: Dataset, patterns: Sequence[tuple[str, re.Pattern[str]]]) -> bool:
    return bool(patterns) and all(pattern.fullmatch(_written(header, keyword)) for keyword, pattern in patterns)


def _written(header: Dataset, keyword: str) -> str:
    """An element as DICOM writes it, several values with backslashes between (PS3.5 6.4); "" where it is missing."""
    if keyword not in header or header[keyword].is_empty:
        return ""
    element = header[keyword]
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join(str(value).strip() for value in values)


def _no_channel(named: Sequence[str], protocol: Protocol, rules: ChannelRules) -> str:
    asked = ", ".join(protocol.channels)
    if named:
        return f"it is channel {' and '.join(named)} by the rules told; expected one of them. No case was made."
    if not rules.elements:
        return (
            f"protocol {protocol.name} has the channels {asked}, and nothing says which series is which; tell it with"
            " --channel NAME=Keyword:PATTERN for each. No case was made."
        )
    return f"it is none of the channels {asked} by the rules told; it was left out"


def _no_case(series: Mapping[str, Sequence[SeriesFiles]], protocol: Protocol) -> str:
    try:
        require_channels(protocol.channels, [name for name, found in series.items() for _ in found])
    except ChannelsError as error:
        return str(error)
    return ""
