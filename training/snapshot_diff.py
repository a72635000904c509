"""Two snapshots of one protocol in, what is otherwise in the later one, in words, out. Pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from labeling_protocols.records import Truth
from labeling_protocols.strata import Strata
from training.snapshot import Snapshot, SnapshotCase, SnapshotError


class What(StrEnum):
    """What changed."""

    PROTOCOL = "protocol"
    ADDED = "case added"
    REMOVED = "case removed"
    TRUTH = "truth"
    STRATA = "strata"
    IMAGES = "images"
    EXCLUSION = "exclusion"
    SIDE = "side moved"  # must never be


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that is otherwise; `case` is empty where it is about no single case."""

    what: What
    words: str
    case: str = ""


def diff(before: Snapshot, after: Snapshot) -> list[Change]:
    """What is otherwise in `after`; raises `SnapshotError` where they are of different protocols."""
    if before.protocol != after.protocol:
        raise SnapshotError(
            f"one snapshot is of protocol {before.protocol}, the other of {after.protocol}; two of one were expected"
        )
    return [*_protocols(before, after), *_cases(before, after), *_exclusions(before, after), *_sides(before, after)]


def strata_change(case: str, before: Strata, after: Strata) -> Iterator[Change]:
    """What is said otherwise of a case's scanner and of who was scanned."""
    old, new = before.as_json(), after.as_json()
    told = [f"{name} {old[name] or 'unknown'} → {new[name] or 'unknown'}" for name in old if old[name] != new[name]]
    if told:
        yield Change(what=What.STRATA, case=case, words=", ".join(told))


def settled_by(case: SnapshotCase | Truth) -> str:
    """How a truth was settled, in words."""
    if case.adjudication is not None:
        return f"{case.settled} {case.adjudication}"
    return f"{case.settled} of reads {', '.join(map(str, case.reads))}"


def _protocols(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    if before.protocol_version != after.protocol_version:
        yield Change(what=What.PROTOCOL, words=f"version {before.protocol_version} → {after.protocol_version}")
    elif before.protocol_digest != after.protocol_digest:
        yield Change(what=What.PROTOCOL, words=f"version {after.protocol_version} says something else")


def _cases(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    old, new = ({case.case: case for case in one.cases} for one in (before, after))
    left_out = {exclusion.case: exclusion.reason for exclusion in after.exclusions}
    for case in sorted(new.keys() - old.keys()):
        side = "held out" if new[case].held_out else "trained on"
        yield Change(what=What.ADDED, case=case, words=f"{side}, {settled_by(new[case])}")
    for case in sorted(old.keys() - new.keys()):
        yield Change(what=What.REMOVED, case=case, words=left_out.get(case, "it has no truth any more"))
    for case in sorted(old.keys() & new.keys()):
        yield from _case(old[case], new[case])


def _case(old: SnapshotCase, new: SnapshotCase) -> Iterator[Change]:
    if (old.label, settled_by(old)) != (new.label, settled_by(new)):
        label = "the same label" if old.label == new.label else "another label"
        yield Change(what=What.TRUTH, case=new.case, words=f"{settled_by(old)} → {settled_by(new)}, {label}")
    if old.channels != new.channels:
        told = " → ".join(", ".join(name for name, _ in one.channels) or "none" for one in (old, new))
        yield Change(what=What.IMAGES, case=new.case, words=f"further channels {told}")
    yield from strata_change(new.case, old.strata, new.strata)


def _exclusions(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    old, new = ({exclusion.case: exclusion.reason for exclusion in one.exclusions} for one in (before, after))
    for case in sorted(old.keys() | new.keys()):
        if old.get(case) != new.get(case):
            words = f"{old.get(case, 'not left out')} → {new.get(case, 'not left out')}"
            yield Change(what=What.EXCLUSION, case=case, words=words)


def _sides(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    old, new = ({case.patient: case for case in one.cases} for one in (before, after))
    for patient in sorted(old.keys() & new.keys()):
        if old[patient].held_out != new[patient].held_out:
            was, now = ("held out" if one[patient].held_out else "trained on" for one in (old, new))
            yield Change(what=What.SIDE, words=f"patient {patient} was {was} and is {now}")
        elif None not in (places := {old[patient].fold_value, new[patient].fold_value}) and len(places) > 1:
            yield Change(what=What.SIDE, words=f"patient {patient} lies elsewhere among the folds")
