"""What a viewer calls each voxel value against what the protocol calls it: a label in, one in protocol values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeling_protocols.geometry import Volume
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import LabelError


@dataclass(frozen=True, kw_only=True)
class NamedValue:
    """One entry of monailabel's `label_info`: a segment's name, and the number its viewer gave it, if any."""

    name: str
    index: int | None


def label_info_of(params: Mapping[str, object]) -> tuple[NamedValue, ...]:
    """The `label_info` of a save request's `params`; raises `LabelError` where it is not a list of named entries."""
    entries = params.get("label_info") or []
    if not isinstance(entries, list):
        raise LabelError("label_info must be a list of {name, idx}. Nothing was saved.")
    return tuple(_named_value(entry) for entry in entries)


def _named_value(entry: object) -> NamedValue:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise LabelError("every entry of label_info must be {name, idx}. Nothing was saved.")
    index = entry.get("idx")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
        raise LabelError("idx in label_info must be a whole number. Nothing was saved.")
    return NamedValue(name=entry["name"], index=index)


def in_protocol_values(protocol: Protocol, label: Volume, info: Sequence[NamedValue]) -> Volume:
    """The label with each value replaced by the protocol's value for the structure of that name.

    Value v means the v-th entry of `label_info`: monailabel counts entries, and 3D Slicer exports segments so. `idx`
    can have gaps there (a hidden background segment), so where it says otherwise the label is taken only if counting
    agrees with the protocol's own values. Without `label_info` the values are the protocol's. Raises `LabelError`.
    """
    if not info:
        return label
    found = [int(value) for value in np.unique(label.array_ZYX) if value != 0 and float(value).is_integer()]
    names = {value: info[value - 1].name if 0 < value <= len(info) else None for value in found}
    if _agrees(protocol, names):
        return label
    if None in names.values() and _agrees(protocol, {value: _name_by_index(info, value) for value in found}):
        return label  # counting cannot be meant, and the numbers given are the protocol's
    _refuse_unnamed(protocol, names)
    if any(info[value - 1].index not in (None, value) for value in found):
        raise LabelError(
            "label_info numbers its entries otherwise than it lists them, so the values could mean two things;"
            f" expected the segments {', '.join(protocol.values)} in this order and no others. Nothing was saved."
        )
    lookup = {value: protocol.values[name] for value, name in names.items() if name is not None}
    if len(set(lookup.values())) != len(lookup):
        raise LabelError("label_info gives two values the same name. Nothing was saved.")
    mapped = label.array_ZYX.copy()
    for value, meant in lookup.items():
        mapped[label.array_ZYX == value] = meant
    return Volume(array_ZYX=mapped, geometry=label.geometry)


def _agrees(protocol: Protocol, names: Mapping[int, str | None]) -> bool:
    return all(name is not None and protocol.values.get(name) == value for value, name in names.items())


def _name_by_index(info: Sequence[NamedValue], value: int) -> str | None:
    names = {entry.name for entry in info if entry.index == value}
    return names.pop() if len(names) == 1 else None


def _refuse_unnamed(protocol: Protocol, names: Mapping[int, str | None]) -> None:
    nameless = sorted(value for value, name in names.items() if name is None)
    if nameless:
        raise LabelError(f"the label has values that label_info does not name: {nameless[:8]}. Nothing was saved.")
    foreign = sorted({name for name in names.values() if name is not None and name not in protocol.values})
    if foreign:
        shown = ", ".join(ascii(name)[:40] for name in foreign[:8])
        raise LabelError(
            f"the label has segments the protocol does not: {shown};"
            f" expected {', '.join(protocol.values)}. Nothing was saved."
        )
