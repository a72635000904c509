"""Labels that adjudicators draw for their decisions: what one begins from and each save in, kept as revisions, out.

An adjudicator's edits of a dispute are his own and one row a save; revision 0 is what he began from. Whoever has the
dispute goes on having it with each save.
"""

import sqlalchemy as sa

from labeling_protocols import audit, schema
from labeling_protocols.audit import Action
from labeling_protocols.composition import CompositionError, compose
from labeling_protocols.dispute_states import UNSETTLED, DisputeError, Standing, locked_case, standing
from labeling_protocols.disputes import hold
from labeling_protocols.label import Label
from labeling_protocols.label_codec import encode_label
from labeling_protocols.label_rules import check_label
from labeling_protocols.records import DisputeState, Edit, Part
from labeling_protocols.store import Store, now

_EDIT = "edit:"
_CLIENT_MAX = 64


def begin_edit(store: Store, case_id: str, adjudicator: str, source: str) -> Edit:
    """Begin an edit from "reader:<account id>", "consensus:<rule>" or "none"; claims the dispute.

    An edit begun again, from another source or after a save, goes on with the next revision; what was drawn before
    stays. Raises `DisputeError`, having kept nothing.
    """
    case = store.case(case_id)
    labels = {read.reader: store.label(read.label) for read in store.latest_reads(case_id)}
    try:
        base = compose(store.protocol(case.protocol), labels, [Part(source=source)]).label
    except CompositionError as error:
        raise DisputeError(f"{error} Nothing was changed.") from error
    digest = store.blobs.put(encode_label(base).content)
    with store.writing() as connection:
        held = hold(store, connection, locked_case(connection, case_id), adjudicator, now())
        newest = _newest(connection, held, adjudicator)
        if newest is not None and (newest.source, newest.label) == (source, digest):
            return newest
        return _keep(connection, held, adjudicator, newest, source, digest, Action.EDIT_BEGUN)


def save_edit(store: Store, case_id: str, adjudicator: str, label: Label, client: str = "") -> Edit:
    """Keep a label as the adjudicator's next revision; the same label saved again changes nothing and returns it.

    Raises `DisputeError` where nothing was begun or the dispute is somebody else's by now, `LabelError` for a label
    that cannot be a read of the case; nothing was kept then.
    """
    case = store.case(case_id)
    encoded = encode_label(label)
    check_label(store.protocol(case.protocol), case, label, encoded.voxels)
    digest = store.blobs.put(encoded.content)
    with store.writing() as connection:
        held = hold(store, connection, locked_case(connection, case_id), adjudicator, now())
        newest = _newest(connection, held, adjudicator)
        if newest is None:
            raise DisputeError("you began no edit of this case; choose what to edit first. Nothing was saved.")
        if is_saved(newest) and newest.label == digest:
            return newest
        source = newest.source if is_saved(newest) else f"{_EDIT}{newest.revision}"
        client = client[:_CLIENT_MAX]
        return _keep(connection, held, adjudicator, newest, source, digest, Action.EDIT_SAVED, client=client)


def newest_edit(store: Store, case_id: str, adjudicator: str) -> Edit | None:
    """The adjudicator's newest revision in the dispute's present round; None where he began nothing, or it is over."""
    with store.engine.connect() as connection:
        found = standing(connection, case_id)
        if found is None or found.state not in UNSETTLED:
            return None
        return _newest(connection, found, adjudicator)


def edits(store: Store, case_id: str, adjudicator: str) -> list[Edit]:
    """Every revision that an adjudicator has of a case, oldest first."""
    table = schema.edits
    query = sa.select(table).where(table.c.case == case_id, table.c.adjudicator == adjudicator).order_by(table.c.id)
    with store.engine.connect() as connection:
        return [Edit(**row._mapping) for row in connection.execute(query)]


def open_edits(store: Store, protocol_name: str, adjudicator: str) -> list[Edit]:
    """The newest revision of each edit that an adjudicator can go on with, by when he began to draw."""
    table, rows = schema.edits, schema.disputes
    his = sa.or_(rows.c.state != DisputeState.CLAIMED, rows.c.holder == adjudicator)
    query = (
        sa.select(table)
        .join(rows, sa.and_(rows.c.case == table.c.case, rows.c.round == table.c.round))
        .where(table.c.adjudicator == adjudicator, rows.c.protocol == protocol_name, rows.c.state.in_(UNSETTLED), his)
        .order_by(table.c.id)
    )
    with store.engine.connect() as connection:
        newest = {row.case: Edit(**row._mapping) for row in connection.execute(query)}
    return list(newest.values())


def is_saved(edit: Edit) -> bool:
    """Whether somebody drew this revision; otherwise it is what an edit began from."""
    return edit.source.startswith(_EDIT)


def begun_from(known: list[Edit], edit: Edit) -> str:
    """The source that an edit began from; `known` are the adjudicator's revisions of the case."""
    if not is_saved(edit):
        return edit.source
    number = int(edit.source.removeprefix(_EDIT))
    return next(one.source for one in known if (one.round, one.revision) == (edit.round, number))


def _newest(connection: sa.Connection, held: Standing, adjudicator: str) -> Edit | None:
    table = schema.edits
    mine = sa.select(table).where(
        table.c.case == held.case, table.c.adjudicator == adjudicator, table.c.round == held.round
    )
    row = connection.execute(mine.order_by(table.c.revision.desc()).limit(1)).first()
    return None if row is None else Edit(**row._mapping)


def _keep(
    connection: sa.Connection,
    held: Standing,
    adjudicator: str,
    newest: Edit | None,
    source: str,
    digest: str,
    action: Action,
    **details: str,
) -> Edit:
    row = {
        "case": held.case,
        "adjudicator": adjudicator,
        "round": held.round,
        "revision": newest.revision + 1 if newest is not None else 0,
        "source": source,
        "label": digest,
        "created": now(),
    }
    connection.execute(sa.insert(schema.edits).values(row))
    told = {name: row[name] for name in ("round", "revision", "source", "label")}
    audit.append(connection, actor=adjudicator, action=action, subject=held.case, **told, **details)
    kept = _newest(connection, held, adjudicator)
    assert kept is not None  # noqa: S101  inserted just above
    return kept
