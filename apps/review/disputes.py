"""Disputes as an adjudicator may see them: readers become letters, drawn anew for each case, and numbers a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from string import ascii_uppercase
from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema, settlement
from labeling_protocols.adjudications import AdjudicationError
from labeling_protocols.dispute_states import UNSETTLED, Standing
from labeling_protocols.disputes import Claimable, standing_over
from labeling_protocols.edits import begun_from, edits, is_saved, newest_edit
from labeling_protocols.protocol import AgreementLimits, Protocol, Structure
from labeling_protocols.protocol_parts import ConsensusRule
from labeling_protocols.pseudonyms import keyed_order
from labeling_protocols.records import Account, Case, Dispute, DisputeState, Edit, PairAgreement, Part, Read, Verdict
from labeling_protocols.store import Store, UnknownError

EDIT, NONE = "edit", "none"
_RULES = tuple(ConsensusRule)


class OwnCaseError(PermissionError):
    """An adjudicator who read the case himself; he is shown nothing of it."""


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """Agreement of two readers on one structure, beside the protocol's limits.

    `agreement` is of the pair's letters in their order: its volume difference is the first's less the second's.
    """

    title: str
    pair: str
    agreement: PairAgreement
    limits: AgreementLimits
    volumes_ml: tuple[float, float]

    @property
    def structure(self) -> str:
        return self.agreement.structure

    @property
    def within(self) -> bool:
        """Whether every number keeps to its limit; what one reader left out keeps to none."""
        found, least = self.agreement, self.limits
        lower = ((found.dice, least.dice_min), (found.surface_dice, least.surface_dice_min), (found.f1, self._f1_min))
        upper = ((found.hd95_mm, least.hd95_mm_max), (self._volume_difference, least.volume_difference_max))
        return (
            not (found.missed and least.hd95_mm_max is not None)
            and all(value >= limit for value, limit in lower if value is not None and limit is not None)
            and all(value <= limit for value, limit in upper if value is not None and limit is not None)
        )

    @property
    def _f1_min(self) -> float | None:
        return self.limits.f1_min if self.limits.f1_min is not None else self.limits.lesion_f1_min

    @property
    def _volume_difference(self) -> float | None:
        """The difference of the volumes as a share of their mean."""
        mean = sum(self.volumes_ml) / 2
        difference = self.agreement.volume_difference_ml
        return abs(difference) / mean if difference is not None and mean else None


@dataclass(frozen=True, kw_only=True)
class ShownDispute:
    """One dispute that nobody settled; `reads` maps letter to read."""

    case: Case
    protocol: Protocol
    verdict: Verdict
    reads: Mapping[str, Read]
    standing: Standing

    @property
    def structures(self) -> tuple[Structure, ...]:
        return self.protocol.structures

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the case's channels, the first first; none where there is one image."""
        return (*self.protocol.channels[:1], *self.case.channels) if self.case.channels else ()

    @property
    def letters(self) -> dict[str, str]:
        """Letters by the readers' account ids."""
        return {read.reader: letter for letter, read in self.reads.items()}

    @property
    def sources(self) -> list[str]:
        """What a decision can take a label from, as adjudicators name it; their own edit comes beside."""
        return [*self.reads, *_RULES]

    def reasons(self) -> list[str]:
        return _said(self.verdict, self.letters)

    def rows(self) -> list[AgreementRow]:
        """Every pair of readers on every structure, pairs in the order of their letters."""
        rows = [self._row(pair) for pair in self.verdict.pairs]
        order = {structure.name: place for place, structure in enumerate(self.structures)}
        return sorted(rows, key=lambda row: (order[row.structure], row.pair))

    def volumes_ml(self) -> dict[str, dict[str, float]]:
        """Volume of each structure by letter."""
        voxel_ml = self.case.geometry.voxel_ml
        return {
            letter: {name: count * voxel_ml for name, count in read.voxels.items()}
            for letter, read in self.reads.items()
        }

    def source(self, take: str, edit: Edit | None) -> str:
        """What the store calls a source that an adjudicator names; `edit` is his newest.

        Raises `AdjudicationError` for what is none.
        """
        if take in self.reads:
            return f"reader:{self.reads[take].reader}"
        if take in _RULES:
            return f"consensus:{take}"
        if take == EDIT and edit is not None and is_saved(edit):
            return f"edit:{edit.revision}"
        if take == EDIT:
            raise AdjudicationError("you saved no edit of this case yet. Nothing was decided.")
        if take == NONE:
            return NONE
        expected = ", ".join([*self.sources, EDIT])
        raise AdjudicationError(f"expected one of {expected} or {NONE} to take from. Nothing was decided.")

    def take(self, source: str) -> str:
        """How an adjudicator names a source of the store."""
        kind, _, name = source.partition(":")
        return self.letters.get(name, "") if kind == "reader" else name if kind == "consensus" else kind

    def _row(self, pair: PairAgreement) -> AgreementRow:
        first, second = self.letters[pair.reader_a], self.letters[pair.reader_b]
        if first > second:
            first, second, pair = second, first, _turned(pair)
        volumes = self.volumes_ml()
        return AgreementRow(
            title=self.protocol.structure(pair.structure).title,
            pair=f"{first}–{second}",
            agreement=pair,
            limits=self.protocol.agreement[pair.structure],
            volumes_ml=(volumes[first].get(pair.structure, 0.0), volumes[second].get(pair.structure, 0.0)),
        )


@dataclass(frozen=True, kw_only=True)
class Queue:
    """Disputes an account may see, worst first, and how many are kept from it because it read them."""

    disputes: tuple[Dispute, ...]
    kept_from_you: int


def queue_of(
    store: Store, protocol_names: Sequence[str], account: Account, states: Sequence[DisputeState] = UNSETTLED
) -> Queue:
    """The disputes of these protocols that stand so; nothing is asked case by case."""
    found = [dispute for name in protocol_names for dispute in settlement.disputes(store, name, states)]
    reads = schema.reads
    with store.engine.connect() as connection:
        own = set(connection.execute(sa.select(reads.c.case).where(reads.c.reader == account.id).distinct()).scalars())
    shown = sorted(
        (dispute for dispute in found if dispute.case not in own),
        key=lambda dispute: (-dispute.verdict.severity, dispute.case),
    )
    return Queue(disputes=tuple(shown), kept_from_you=len(found) - len(shown))


def listed(
    secret: bytes,
    protocol: Protocol,
    dispute: Dispute,
    account: Account,
    names: Mapping[str, str],
    taking: Claimable,
) -> dict[str, Any]:
    """A dispute's line in the queue; `names` are adjudicators', by account id.

    `adjudicators` must decide the same, `decided` did decide, and `not_yours` says why the account cannot be one of
    them. It tells the day since when reads are in dispute and no more: the moment would be that of the last read.
    """
    letters = _letters(secret, dispute.case, dispute.reads)
    known = {structure.name for structure in protocol.structures}
    named = (reason.text.partition(":")[0] for reason in dispute.verdict.reasons)
    return {
        "case": dispute.case,
        "protocol": dispute.protocol,
        "state": dispute.state,
        "group": dispute.group or None,
        "severity": dispute.verdict.severity,
        "reasons": _said(dispute.verdict, letters),
        "structures": list(dict.fromkeys(name for name in named if name in known)),
        "since": dispute.since.date().isoformat(),
        "adjudicators": 1 if dispute.group else protocol.adjudication.adjudicators,
        "decided": taking.decided,
        "not_yours": taking.refusal or None,
        **held_words(dispute, account, names),
    }


def held_words(standing: Standing | Dispute, account: Account, names: Mapping[str, str]) -> dict[str, Any]:
    """Who has a dispute, since when and until when, for adjudicators."""
    return {
        "held_by": names.get(standing.holder) if standing.holder is not None else None,
        "held_since": standing.held_since.isoformat() if standing.held_since is not None else None,
        "held_until": standing.held_until.isoformat() if standing.held_until is not None else None,
        "mine": standing.holder == account.id,
    }


def find_dispute(store: Store, secret: bytes, case_id: str, account: Account) -> ShownDispute:
    """The dispute over a case; raises `UnknownError` where there is none, `OwnCaseError` for the case's readers."""
    case = store.case(case_id)
    require_not_own(store, case_id, account)
    verdict = settlement.settle(store, case_id)
    standing = standing_over(store, case_id)
    if standing is not None and standing.state is DisputeState.SETTLED:
        raise UnknownError("this dispute is settled already")
    if verdict is None or verdict.agreed or standing is None or standing.state not in UNSETTLED:
        raise UnknownError("this case is not in dispute")
    judged = {reader for pair in verdict.pairs for reader in (pair.reader_a, pair.reader_b)}
    reads = {read.reader: read for read in store.latest_reads(case_id) if read.reader in judged}
    letters = _letters(secret, case_id, list(reads.values()))
    return ShownDispute(
        case=case,
        protocol=store.protocol(case.protocol),
        verdict=verdict,
        reads={letter: reads[reader] for reader, letter in letters.items()},
        standing=standing,
    )


def require_not_own(store: Store, case_id: str, account: Account) -> None:
    if store.reads(case_id, account.id):
        raise OwnCaseError("you read this case yourself; another adjudicator settles it. Nothing is shown of it.")


def parts_of(
    store: Store, dispute: ShownDispute, account: Account, parts: Sequence[tuple[str | None, int | None, str]]
) -> list[Part]:
    """Parts as the store names them, from (structure, lesion, what to take); raises `AdjudicationError`."""
    edit = newest_edit(store, dispute.case.id, account.id)
    return [
        Part(structure=structure, lesion=lesion, source=dispute.source(take, edit)) for structure, lesion, take in parts
    ]


def edit_shown(store: Store, dispute: ShownDispute, account: Account) -> dict[str, Any] | None:
    """An adjudicator's own newest edit, and what he began it from."""
    edit = newest_edit(store, dispute.case.id, account.id)
    if edit is None:
        return None
    known = edits(store, dispute.case.id, account.id)
    return {
        "revision": edit.revision,
        "source": dispute.take(begun_from(known, edit)),
        "saved": is_saved(edit),
        "label": f"/review/disputes/{dispute.case.id}/{EDIT}.nii.gz",
    }


def _letters(secret: bytes, case_id: str, reads: Sequence[Read]) -> dict[str, str]:
    """Letters by reader, in an order that only the site's key knows: a letter says nothing from case to case."""
    order = keyed_order(secret, case_id, [read.reader for read in reads])
    return dict(zip(order, ascii_uppercase, strict=False))


def _said(verdict: Verdict, letters: Mapping[str, str]) -> list[str]:
    """The reasons with letters, those that weigh most first.

    Of reasons in the same words the letters decide which stands first: the order of account ids is the same in every
    case, and would tell over many cases whose letter is whose.
    """
    names = {reader: f"reader {letter}" for reader, letter in letters.items()}
    alike = groupby(verdict.reasons, key=lambda reason: reason.text)
    return [said for _, reasons in alike for said in sorted(reason.said(names) for reason in reasons)]


def _turned(pair: PairAgreement) -> PairAgreement:
    """The same agreement with the readers the other way round."""
    difference = pair.volume_difference_ml
    values = asdict(pair) | {
        "reader_a": pair.reader_b,
        "reader_b": pair.reader_a,
        "findings_a": pair.findings_b,
        "findings_b": pair.findings_a,
        "volume_difference_ml": None if difference is None else -difference,
    }
    return PairAgreement(**values)
