"""What a model is called and which version it is: its predecessor and what it was made of in, a semantic version out.

The first number is the version of the labelling protocol, since a new one may mean other structures. The second counts
changes of how the model is made: its network and every other value of its plan that does not merely follow from the
training images (`changes.MEASURED`). The third counts trainings on other data, nothing else being different.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from training.changes import Changes, plan_changes, plan_values
from training.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Predecessor:
    """The version before, as its bundle tells it; `training_cases` is None where an earlier release wrote it."""

    version: str
    changelog: Mapping[str, str]
    plan_json: str
    training_cases: int | None


@dataclass(frozen=True, kw_only=True)
class Version:
    """A semantic version; `changelog` says what changed in it and in each before it, newest first."""

    number: str
    changelog: Mapping[str, str]


def model_name(protocol: str, task: str = "segmentation") -> str:
    """The registered model of a protocol and a task."""
    return f"{protocol}-{task}"


def next_version(
    predecessor: Predecessor | None, *, plan_json: str, snapshot: Snapshot, taken: Collection[str] = ()
) -> Version:
    """The version of a model of this plan, trained on this snapshot; `taken` stand for other trainings already.

    Raises `ValueError` where the predecessor is of a later protocol version.
    """
    cases = len(snapshot.training)
    said = [f"trained on {cases} case(s) of snapshot {snapshot.digest}"]
    number, earlier = (snapshot.protocol_version, 0, 0), dict[str, str]()
    if predecessor is not None:
        changed = Changes(plan=plan_changes(plan_values(predecessor.plan_json), plan_values(plan_json)))
        number = _bumped(_split(predecessor.version), snapshot.protocol_version, bool(changed.method))
        earlier = dict(predecessor.changelog)
        if predecessor.training_cases is not None:
            said[0] += f" ({cases - predecessor.training_cases:+d})"
        if changed.plan:
            said.append(str(changed))
    while _joined(number) in taken:
        number = (*number[:2], number[2] + 1)
    return Version(number=_joined(number), changelog={_joined(number): "; ".join(said), **earlier})


def _bumped(before: tuple[int, int, int], protocol_version: int, method_changed: bool) -> tuple[int, int, int]:
    major, minor, patch = before
    if protocol_version < major:
        raise ValueError(
            f"version {_joined(before)} is of protocol version {major}, this model of {protocol_version}; expected the"
            " same or a later one. No version was given."
        )
    if protocol_version > major:
        return protocol_version, 0, 0
    return (major, minor + 1, 0) if method_changed else (major, minor, patch + 1)


def _split(version: str) -> tuple[int, int, int]:
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def _joined(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
