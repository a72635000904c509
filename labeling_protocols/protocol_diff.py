"""What a changed protocol means for reads made before: two versions in, each change in words out. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from labeling_protocols.protocol import Protocol, Structure
from labeling_protocols.protocol_parts import (
    AgreementLimits,
    ChoiceQuestion,
    Code,
    IntegerQuestion,
    Question,
    TextQuestion,
)

_MADE_AGAIN = "reads made before must be made again"
_JUDGED_AGAIN = "verdicts are computed again, reads stay"
_FROM_NOW = "it holds for work from now on, reads stay"
_WORDS_ONLY = "reads stay"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change; `reads_count_on` says whether reads made before still answer the protocol's question."""

    what: str
    meaning: str
    reads_count_on: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.meaning}"


@dataclass(frozen=True, kw_only=True)
class ProtocolDiff:
    """Every change from one version of a protocol to another."""

    changes: tuple[Change, ...]

    @property
    def reads_count_on(self) -> bool:
        """Whether reads made under the old version count under the new one."""
        return all(change.reads_count_on for change in self.changes)


def diff(old: Protocol, new: Protocol) -> ProtocolDiff:
    """What changed from `old` to `new`, in the order of a protocol file; the version number itself is no change."""
    return ProtocolDiff(changes=tuple(_changes(old, new)))


def _changes(old: Protocol, new: Protocol) -> Iterator[Change]:
    if old.name != new.name:
        yield _again(f"name {old.name} -> {new.name}", "it is another protocol, with reads of its own")
        return
    yield from _fields(old, new, ("title",), _WORDS_ONLY)
    yield from _fields(old, new, ("modality",), "it holds for images that come from now on, cases and reads stay")
    lacking = "cases without them are not trained with until their images come in again, reads stay"
    yield from _fields(old, new, ("channels",), lacking)
    yield from _fields(old, new, ("body_part",), "new DICOM objects carry it, reads stay")
    yield from _structures(old, new)
    yield from _questions(old, new)
    yield from _overlaps(old, new)
    yield from _emptiness(old, new)
    yield from _readers(old, new)
    yield from _fields(
        old, new, ("seat_lease_minutes", "prelabels", "blinding", "calibration", "acquisition"), _FROM_NOW
    )
    yield from _agreement(old, new)
    yield from _fields(old, new, ("consensus",), "truths are computed again, reads stay")
    yield from _fields(old, new, ("adjudication",), "it holds for disputes that are open, decisions and reads stay")
    yield from _fields(old, new, ("gate",), "it holds for candidates from now on, reads stay")


def _stay(what: str, meaning: str) -> Change:
    return Change(what=what, meaning=meaning, reads_count_on=True)


def _again(what: str, meaning: str) -> Change:
    return Change(what=what, meaning=meaning, reads_count_on=False)


def _structures(old: Protocol, new: Protocol) -> Iterator[Change]:
    before = {structure.name: structure for structure in old.structures}
    after = {structure.name: structure for structure in new.structures}
    for name in [name for name in before if name not in after]:
        yield _again(f"structure {name!r} was removed", f"reads made before may show it; {_MADE_AGAIN}")
    for name in [name for name in after if name not in before]:
        yield _again(f"structure {name!r} was added", f"reads made before say nothing of it; {_MADE_AGAIN}")
    for name in [name for name in before if name in after]:
        yield from _structure(before[name], after[name])
    shared_before, shared_after = ([n for n in names if n in before and n in after] for names in (before, after))
    if shared_before != shared_after:
        yield _stay("the order of the structures", _WORDS_ONLY)


def _structure(old: Structure, new: Structure) -> Iterator[Change]:
    for field in ("title", "color"):
        for what in _differences(f"{field} of {old.name}", getattr(old, field), getattr(new, field)):
            yield _stay(what, _WORDS_ONLY)
    for what in _differences(f"value of {old.name}", old.value, new.value):
        yield _again(what, f"labels made before hold the old value; {_MADE_AGAIN}")
    for field in ("category", "type", "modifier"):
        yield from _recoded(f"{field} of {old.name}", getattr(old, field), getattr(new, field))
    if added := [task for task in new.tasks if task not in old.tasks]:
        yield _again(f"{old.name} is asked for as {' and '.join(added)} too", f"reads lack it; {_MADE_AGAIN}")
    if removed := [task for task in old.tasks if task not in new.tasks]:
        meaning = f"reads made before may hold what is refused now; {_MADE_AGAIN}"
        yield _again(f"{old.name} is no longer asked for as {' and '.join(removed)}", meaning)


def _recoded(name: str, old: Code | None, new: Code | None) -> Iterator[Change]:
    """A code that changed means another concept; its meaning in words alone is a matter of words."""
    if old == new:
        return
    shown = [f"{code.meaning} ({code.scheme} {code.value})" if code else "none" for code in (old, new)]
    what = f"{name} {shown[0]} -> {shown[1]}"
    if old and new and (old.scheme, old.value) == (new.scheme, new.value):
        yield _stay(what, _WORDS_ONLY)
    else:
        yield _again(what, f"it means another thing now; {_MADE_AGAIN}")


def _questions(old: Protocol, new: Protocol) -> Iterator[Change]:
    before = {question.name: question for question in old.questions}
    after = {question.name: question for question in new.questions}
    for name in before:
        if name not in after:
            yield _stay(f"question {name!r} was removed", "its answers are kept and count no more, reads stay")
        else:
            yield from _question(before[name], after[name])
    for name, question in after.items():
        if name in before:
            continue
        if question.required:
            yield _again(f"question {name!r} was added and must be answered", f"reads lack it; {_MADE_AGAIN}")
        else:
            yield _stay(f"question {name!r} was added", "reads made before leave it open and stay")


def _question(old: Question, new: Question) -> Iterator[Change]:
    what = f"question {old.name!r}"
    if old.title != new.title:
        yield _again(f"{what} now asks {new.title!r}", f"answers were given to {old.title!r}; {_MADE_AGAIN}")
    if old.kind != new.kind:
        yield _again(f"{what} is now of kind {new.kind}, not {old.kind}", f"answers no longer fit; {_MADE_AGAIN}")
        return
    if new.required and not old.required:
        yield _again(f"{what} must be answered now", f"reads may leave it open; {_MADE_AGAIN}")
    elif old.required and not new.required:
        yield _stay(f"{what} may be left open now", _FROM_NOW)
    yield from _answers(what, old, new)
    for field in ("agreement", "tolerance"):
        if hasattr(old, field):
            for difference in _differences(f"{field} of {what}", getattr(old, field), getattr(new, field)):
                yield _stay(difference, _JUDGED_AGAIN)


def _answers(what: str, old: Question, new: Question) -> Iterator[Change]:
    """What became of the answers a question allows; fewer or other answers make old ones void."""
    if isinstance(old, ChoiceQuestion) and isinstance(new, ChoiceQuestion):
        if {*old.options} != {*new.options}:
            shown = f"{what} offers {', '.join(new.options)} instead of {', '.join(old.options)}"
            yield _again(shown, f"readers chose among other answers; {_MADE_AGAIN}")
        elif old.options != new.options:
            yield _stay(f"the order of the options of {what}", _WORDS_ONLY)
    elif isinstance(old, IntegerQuestion) and isinstance(new, IntegerQuestion):
        if (old.min, old.max) != (new.min, new.max):
            shown = f"{what} takes {new.min} to {new.max} instead of {old.min} to {old.max}"
            yield _again(shown, f"readers answered on another scale; {_MADE_AGAIN}")
    elif isinstance(old, TextQuestion) and isinstance(new, TextQuestion) and old.max_characters != new.max_characters:
        yield _stay(f"max_characters of {what} {old.max_characters} -> {new.max_characters}", _FROM_NOW)


def _overlaps(old: Protocol, new: Protocol) -> Iterator[Change]:
    before, after = ({frozenset(pair) for pair in protocol.overlaps} for protocol in (old, new))
    known = {structure.name for structure in old.structures} & {structure.name for structure in new.structures}
    for pair in sorted(" and ".join(sorted(pair)) for pair in before - after if pair <= known):
        yield _again(f"{pair} may not overlap any more", f"labels made before may; {_MADE_AGAIN}")
    for pair in sorted(" and ".join(sorted(pair)) for pair in after - before if pair <= known):
        meaning = f"readers before had to cut one out of the other; {_MADE_AGAIN}"
        yield _again(f"{pair} may overlap now", meaning)


def _emptiness(old: Protocol, new: Protocol) -> Iterator[Change]:
    if old.may_be_empty and not new.may_be_empty:
        yield _again("a label without any finding is refused now", f"reads made before may be empty; {_MADE_AGAIN}")
    elif new.may_be_empty and not old.may_be_empty:
        yield _stay("a label without any finding is a read now", _FROM_NOW)


def _readers(old: Protocol, new: Protocol) -> Iterator[Change]:
    what = f"readers_per_case {old.readers_per_case} -> {new.readers_per_case}"
    if new.readers_per_case > old.readers_per_case:
        more = new.readers_per_case - old.readers_per_case
        yield _stay(what, f"cases need {more} more read(s) each before they are settled, reads stay")
    elif new.readers_per_case < old.readers_per_case:
        yield _stay(what, "cases with enough reads are settled sooner, reads stay")
    if sorted(old.seat_groups) != sorted(new.seat_groups) and (old.seats or new.seats):
        shown = [", ".join(group or "anyone" for group in protocol.seat_groups) for protocol in (old, new)]
        yield _stay(f"seats ({shown[0]}) -> ({shown[1]})", "it holds for seats that are free, reads stay")


def _agreement(old: Protocol, new: Protocol) -> Iterator[Change]:
    for name in [structure.name for structure in new.structures if structure.name in old.agreement]:
        for field in fields(AgreementLimits):
            before, after = (getattr(protocol.agreement[name], field.name) for protocol in (old, new))
            for what in _differences(f"{field.name} of {name}", before, after):
                yield _stay(what, _JUDGED_AGAIN)


def _fields(old: Protocol, new: Protocol, names: Sequence[str], meaning: str) -> Iterator[Change]:
    for name in names:
        for what in _differences(name, getattr(old, name), getattr(new, name)):
            yield _stay(what, meaning)


def _differences(name: str, old: Any, new: Any) -> Iterator[str]:
    """Each difference between two values as "name old -> new", entry by entry."""
    if type(old) is type(new) and is_dataclass(old):
        for field in fields(old):
            yield from _differences(f"{name}.{field.name}", getattr(old, field.name), getattr(new, field.name))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name} {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, AgreementLimits):  # most are left out in most protocols
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        return ", ".join(f"{name} {limit:g}" for name, limit in given.items() if limit is not None)
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_shown(item)}" for name, item in value.items())
    if is_dataclass(value):
        return ", ".join(f"{field.name} {_shown(getattr(value, field.name))}" for field in fields(value))
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value) or "none"
    return f"{value}"
