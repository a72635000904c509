"""What adjudicators draw in their viewers for a decision: an account and a case in, the edit he goes on with out.

An edit is begun on the dispute's review page; from there on it is the case's label in his viewer, whatever tag that
asks for, and what he saves is its next revision. It is no read, and needs no seat.
"""

import contextlib

from labeling_protocols import disputes, edits
from labeling_protocols.disputes import DisputeError
from labeling_protocols.label import Label
from labeling_protocols.records import Account, Case, Edit, Role
from labeling_protocols.store import Store

_ADJUDICATES = frozenset({Role.ADJUDICATOR, Role.ADMINISTRATOR})
_KEPT = "Nothing was saved; your drawing is still in your viewer, and what you saved before is kept."
_BEGIN = "choose to edit it in 3D Slicer and save once more"


class EditError(ValueError):
    """A save of somebody who may not go on with an edit: why, and how to get it back; nothing was kept."""


def adjudicates(account: Account) -> bool:
    return bool(account.roles & _ADJUDICATES)


def open_edits(store: Store, protocol_name: str, account: Account) -> dict[str, Edit]:
    """The edits an account can go on with, by case."""
    if not adjudicates(account):
        return {}
    return {edit.case: edit for edit in edits.open_edits(store, protocol_name, account.id)}


def edit_of(store: Store, account: Account, case: Case) -> Edit | None:
    """The edit of this case that an account can go on with."""
    return open_edits(store, case.protocol, account).get(case.id)


def next_edit(store: Store, protocol_names: list[str], account: Account) -> Edit | None:
    """Of the disputes the account has, the one whose edit he turned to last."""
    every = [edit for name in protocol_names for edit in open_edits(store, name, account).values()]
    return max((edit for edit in every if _holds(store, account, edit.case)), key=lambda edit: edit.id, default=None)


def go_on(store: Store, account: Account, case_id: str) -> None:
    """An adjudicator who fetches something of a dispute he has works on it: he has it for longer."""
    if adjudicates(account) and _holds(store, account, case_id):
        with contextlib.suppress(DisputeError):  # it went to somebody else, or was settled, in this moment
            disputes.claim(store, case_id, account.id)


def edits_instead(store: Store, account: Account, case: Case) -> bool:
    """Whether what this account saves of the case is an edit: he began one, now or earlier, or is no reader.

    Who saw the others' outlines to edit them never becomes a reader of that case.
    """
    if Role.READER not in account.roles:
        return True
    return adjudicates(account) and bool(edits.edits(store, case.id, account.id))


def save_edit(store: Store, account: Account, case: Case, label: Label, client: str) -> Edit:
    """Keep a label as the account's next revision; raises `EditError` or `LabelError`, having kept nothing."""
    try:
        return edits.save_edit(store, case.id, account.id, label, client)
    except DisputeError as error:
        words = str(error).removesuffix(" Nothing was changed.").removesuffix(" Nothing was saved.")
        raise EditError(
            f"{words} {_KEPT} Claim the dispute on its review page once you can, and save once more."
        ) from error


def begun(store: Store, account: Account, case: Case) -> Edit:
    """The account's newest revision; raises `EditError` where it began no edit of this case, or the dispute is over."""
    if not (adjudicates(account) and edits.edits(store, case.id, account.id)):
        raise EditError(f"you began no edit of this case. {_KEPT} On the dispute's review page, {_BEGIN}.")
    newest = edits.newest_edit(store, case.id, account.id)
    if newest is None:
        raise EditError(
            f"this dispute was settled, or is none any more. {_KEPT} To go on, reopen it on its review page, {_BEGIN}."
        )
    return newest


def _holds(store: Store, account: Account, case_id: str) -> bool:
    found = disputes.standing_over(store, case_id)
    return found is not None and found.holder == account.id
