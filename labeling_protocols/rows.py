"""Rows of the database as records, and the queries that select them."""

from typing import Any

import sqlalchemy as sa

from labeling_protocols import schema
from labeling_protocols.geometry import Geometry
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import (
    Case,
    LesionAgreement,
    LesionKind,
    PairAgreement,
    Provenance,
    Read,
    Reason,
    Seat,
    SeatState,
    StructureAgreement,
    Verdict,
)
from labeling_protocols.strata import Strata

READ_COLUMNS = ("case", "reader", "protocol_version", "revision", "label", "voxels", "volumes_ml", "created")
_CASE_COLUMNS = ("id", "protocol", "patient", "image", "modality", "series", "created", "known_truth")


def by_structure(protocol: Protocol, voxels: dict[int, int]) -> dict[str, int]:
    """Voxel counts by value as counts by structure."""
    return {name: voxels.get(value, 0) for name, value in protocol.values.items()}


def _reads() -> sa.Select[Any]:
    """Reads with a column `withdrawn`: a withdrawal takes back its revision and those before it."""
    table, withdrawals, later = schema.reads, schema.withdrawals, schema.reads.alias()
    withdrawn = (
        sa.exists()
        .where(
            withdrawals.c.read == later.c.id,
            later.c.case == table.c.case,
            later.c.reader == table.c.reader,
            later.c.id >= table.c.id,
        )
        .label("withdrawn")
    )
    return sa.select(table, withdrawn)


# Built once: building a query costs more than running it. Parameters are `of_case`, `of_reader` and `of_protocol`.
_of_case = schema.reads.c.case == sa.bindparam("of_case")
_of_reader = schema.reads.c.reader == sa.bindparam("of_reader")
READS_OF_CASE = _reads().where(_of_case).order_by(schema.reads.c.id)
READS_OF_READER = _reads().where(_of_case, _of_reader).order_by(schema.reads.c.id)
NEWEST_OF_READER = _reads().where(_of_case, _of_reader).order_by(schema.reads.c.id.desc()).limit(1)


def reads_of_cases(cases: sa.Select[Any]) -> sa.Select[Any]:
    """Reads, as `READS_OF_CASE` has them, of every case that a query selects."""
    return _reads().where(schema.reads.c.case.in_(cases)).order_by(schema.reads.c.id)


CASE = sa.select(schema.cases).where(schema.cases.c.id == sa.bindparam("of_case"))
CASE_LOCKED = CASE.with_for_update(key_share=True)
NEWEST_PROTOCOL = (
    sa.select(schema.protocols)
    .where(schema.protocols.c.name == sa.bindparam("of_protocol"))
    .order_by(schema.protocols.c.version.desc())
    .limit(1)
)
_shown, _prelabels = schema.shown_prelabels, schema.prelabels
SHOWN_PRELABEL = (
    sa.select(_shown.c.model)
    .where(_shown.c.case == sa.bindparam("of_case"), _shown.c.reader == sa.bindparam("of_reader"))
    .order_by(_shown.c.created.desc())
    .limit(1)
)
NEWEST_PRELABEL = (
    sa.select(_prelabels.c.model)
    .where(_prelabels.c.case == sa.bindparam("of_case"))
    .order_by(_prelabels.c.created.desc())
    .limit(1)
)


def case_of(row: Any) -> Case:
    return Case(
        geometry=Geometry.from_json(row.geometry),
        strata=Strata.from_json(row.strata),
        channels=tuple(channel["name"] for channel in row.channels or ()),
        channel_images=tuple(channel["image"] for channel in row.channels or ()),
        channel_series=tuple(channel["series"] for channel in row.channels or ()),
        resampled=tuple(channel["name"] for channel in row.channels or () if channel["resampled"]),
        **{name: getattr(row, name) for name in _CASE_COLUMNS},
    )


def read_of(row: Any) -> Read:
    return Read(
        id=row.id,
        **{name: getattr(row, name) for name in READ_COLUMNS},
        provenance=Provenance(
            client=row.client,
            seconds=row.seconds,
            prelabel_model=row.prelabel_model,
            prelabel_shown=bool(row.prelabel_shown),
        ),
        withdrawn=bool(row.withdrawn),
    )


def seat_of(row: Any) -> Seat:
    return Seat(
        case=row.case,
        place=row.place,
        group=row.group,
        reader=row.reader,
        state=SeatState(row.state),
        opened=row.opened,
        lease_until=row.lease_until,
    )


def verdict_of(content: dict[str, Any]) -> Verdict:
    """A verdict from the JSON it is kept as."""
    return Verdict(
        pairs=tuple(PairAgreement(**pair) for pair in content["pairs"]),
        reasons=tuple(Reason(text=reason["text"], readers=tuple(reason["readers"])) for reason in content["reasons"]),
        severity=content["severity"],
        lesions=tuple(_lesion(lesion) for lesion in content["lesions"]),
        structures=tuple(StructureAgreement(**structure) for structure in content["structures"]),
    )


def _lesion(content: dict[str, Any]) -> LesionAgreement:
    x, y, z = content["centre_mm_LPS"]
    own = {"kind": LesionKind(content["kind"]), "centre_mm_LPS": (x, y, z), "found_by": tuple(content["found_by"])}
    return LesionAgreement(**{**content, **own})
