"""A protocol's cases, reads and truths in the store in; the rows of a study's tables out, pseudonyms only.

Verdicts and truths are taken first and reads last: what is saved meanwhile can then only add reads, never leave a
verdict without the reads it is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from apps.study_files import Cell, Row
from apps.study_labels import Marks, answer_rows, finding_rows, marks_of, structure_rows, xyz
from labeling_protocols import schema, settlement
from labeling_protocols.label_codec import encode_label
from labeling_protocols.protocol import Protocol
from labeling_protocols.records import Case, Read, Settled, Truth, Verdict
from labeling_protocols.reliability import BlandAltman, Icc
from labeling_protocols.rows import by_structure
from labeling_protocols.store import Store
from labeling_protocols.study_reliability import CaseReads, study_reliability

Rows = list[Row]


def reading_tables(store: Store, protocol_name: str) -> dict[str, Rows]:
    """Cases, verdicts, truths, reads and reliability, by table; equal stores give equal rows."""
    protocol = store.protocol(protocol_name)
    cases = store.cases(protocol_name)
    truths = settlement.truths(store, protocol_name)
    judged = {case.id: _judged(store, case.id) for case in cases}
    reads = {case.id: store.reads(case.id) for case in cases}
    every = [read for of_case in reads.values() for read in of_case]
    versions = {number: store.protocol(protocol_name, number) for number in {read.protocol_version for read in every}}
    marks = marks_of(store, versions, every)
    return {
        "cases": _cases(store, protocol_name, cases),
        **_verdict_tables(judged),
        **_truth_tables(store, protocol, truths),
        **_read_tables(store, versions, every, {read.id for one in judged.values() for read in one.reads}, marks),
        **_reliability_tables(protocol, cases, judged, marks),
    }


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The reads of a case that count and what they say together, None while seats are unread."""

    reads: tuple[Read, ...]
    verdict: Verdict | None


def _judged(store: Store, case_id: str) -> _Judged:
    """Judged again where somebody saved meanwhile."""
    reads = verdict = None
    while reads is None or reads != store.latest_reads(case_id):
        reads = store.latest_reads(case_id)
        verdict = settlement.settle(store, case_id)
    return _Judged(reads=tuple(reads), verdict=verdict)


def _cases(store: Store, protocol_name: str, cases: list[Case]) -> Rows:
    table = schema.cases
    query = sa.select(table.c.id, table.c.outcome, table.c.severity).where(table.c.protocol == protocol_name)
    with store.engine.connect() as connection:
        judged = {row.id: row for row in connection.execute(query)}
    return [
        {
            "case": case.id,
            "patient": case.patient,
            "modality": case.modality,
            "from_dicom": case.series is not None,
            "image_sha256": case.image,
            **dict(zip(("voxels_z", "voxels_y", "voxels_x"), case.geometry.shape_ZYX, strict=True)),
            **xyz("spacing_{}_mm", case.geometry.spacing_mm_XYZ),
            "calibration": case.known_truth is not None,
            "known_truth_sha256": case.known_truth,
            "outcome": judged[case.id].outcome,
            "severity": judged[case.id].severity,
            "added": case.created,
        }
        for case in cases
    ]


# Reads


def _read_tables(
    store: Store, versions: Mapping[int, Protocol], every: list[Read], counting: set[int], marks: Mapping[str, Marks]
) -> dict[str, Rows]:
    return {
        "reads": [_read(read, read.id in counting) for read in every],
        "withdrawals": _withdrawals(store, {read.id for read in every}),
        "read_structures": [
            {"read": read.id, **row}
            for read in every
            for row in structure_rows(versions[read.protocol_version], read.voxels, read.volumes_ml, marks[read.label])
        ],
        "read_answers": [{"read": read.id, **row} for read in every for row in answer_rows(marks[read.label])],
        "read_findings": [{"read": read.id, **row} for read in every for row in finding_rows(marks[read.label])],
    }


def _read(read: Read, counts: bool) -> Row:
    made = read.provenance
    return {
        "read": read.id,
        "case": read.case,
        "reader": read.reader,
        "protocol_version": read.protocol_version,
        "revision": read.revision,
        "saved": read.created,
        "seconds": made.seconds,
        "client": made.client,
        "prelabel_model": made.prelabel_model,
        "prelabel_shown": made.prelabel_shown,
        "label_sha256": read.label,
        "counts": counts,
        "withdrawn": read.withdrawn,
    }


def _withdrawals(store: Store, reads: set[int]) -> Rows:
    table = schema.withdrawals
    with store.engine.connect() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.id)).all()
    return [
        {"read": row.read, "withdrawn_by": row.actor, "reason": row.reason, "at": row.created}
        for row in rows
        if row.read in reads
    ]


# Verdicts


def _verdict_tables(judged: Mapping[str, _Judged]) -> dict[str, Rows]:
    verdicts = {case: one.verdict for case, one in judged.items() if one.verdict is not None}
    return {
        "verdicts": [
            {
                "case": case,
                "readers": len(judged[case].reads),
                "agreed": verdict.agreed,
                "severity": verdict.severity,
            }
            for case, verdict in verdicts.items()
        ],
        "reasons": [
            {"case": case, "number": number, "reason": reason.said({r: f"reader {r}" for r in reason.readers})}
            for case, verdict in verdicts.items()
            for number, reason in enumerate(verdict.reasons, start=1)
        ],
        "agreement": [
            {"case": case, **vars(pair), "missed": pair.missed}
            for case, verdict in verdicts.items()
            for pair in verdict.pairs
        ],
        "structure_agreement": [
            {"case": case, **vars(structure)} for case, verdict in verdicts.items() for structure in verdict.structures
        ],
        **_lesion_tables(verdicts, judged),
    }


def _lesion_tables(verdicts: Mapping[str, Verdict], judged: Mapping[str, _Judged]) -> dict[str, Rows]:
    lesions: Rows = []
    of_readers: Rows = []
    for case, verdict in verdicts.items():
        for lesion in verdict.lesions:
            named: dict[str, Cell] = {"case": case, "structure": lesion.structure, "lesion": lesion.number}
            place = xyz("{}_mm", lesion.centre_mm_LPS)
            found = len(lesion.found_by)
            lesions.append({**named, "kind": lesion.kind, **place, "readers_found": found, "dice_min": lesion.dice_min})
            of_readers += [
                {
                    **named,
                    "reader": read.reader,
                    "found": read.reader in lesion.found_by,
                    "volume_ml": lesion.volumes_ml.get(read.reader),
                }
                for read in judged[case].reads
            ]
    return {"lesions": lesions, "lesion_reads": of_readers}


# Truths


def _truth_tables(store: Store, protocol: Protocol, truths: list[Truth]) -> dict[str, Rows]:
    tables: dict[str, Rows] = {
        name: [] for name in ("truths", "truth_reads", "truth_structures", "truth_answers", "truth_findings")
    }
    for truth in truths:
        label = store.label(truth.label)
        case: dict[str, Cell] = {"case": truth.case.id}
        tables["truths"].append(
            {
                **case,
                "settled": truth.settled,
                "rule": protocol.consensus.rule if truth.settled is Settled.CONSENSUS else None,
                "adjudication": truth.adjudication,
                "protocol_version": truth.protocol_version,
                "label_sha256": truth.label,
            }
        )
        tables["truth_reads"] += [{**case, "read": read} for read in sorted(truth.reads)]
        marks = Marks.of(label)
        voxels = by_structure(protocol, encode_label(label).voxels)
        volumes_ml = {name: count * truth.case.geometry.voxel_ml for name, count in voxels.items()}
        tables["truth_structures"] += [{**case, **row} for row in structure_rows(protocol, voxels, volumes_ml, marks)]
        tables["truth_answers"] += [{**case, **row} for row in answer_rows(marks)]
        tables["truth_findings"] += [{**case, **row} for row in finding_rows(marks)]
    return tables


# Reliability


def _reliability_tables(
    protocol: Protocol, cases: list[Case], judged: Mapping[str, _Judged], marks: Mapping[str, Marks]
) -> dict[str, Rows]:
    """Over ordinary cases: of a calibration case the truth was known."""
    measured = study_reliability(
        protocol,
        [
            CaseReads(
                case=case.id,
                volumes_ml={read.reader: read.volumes_ml for read in judged[case.id].reads},
                answers={read.reader: marks[read.label].answers for read in judged[case.id].reads},
            )
            for case in cases
            if case.known_truth is None
        ],
    )
    return {
        "volume_reliability": [
            {"structure": found.structure, "readers": len(found.readers), "cases": found.cases, **_icc(found.icc)}
            for found in measured.volumes
        ],
        "pair_reliability": [
            {
                "structure": found.structure,
                "reader_a": pair.reader_a,
                "reader_b": pair.reader_b,
                "cases": pair.cases,
                **_icc(pair.icc),
                **_bland_altman(pair.bland_altman),
            }
            for found in measured.volumes
            for pair in found.pairs
        ],
        "answer_reliability": [dict(vars(found)) for found in measured.answers],
    }


def _icc(icc: Icc | None) -> Row:
    numbers: dict[str, Cell] = {}
    for name in ("icc_2_1", "icc_3_1"):
        low, high = getattr(icc, f"{name}_interval") if icc else (None, None)
        numbers |= {name: getattr(icc, name) if icc else None, f"{name}_low": low, f"{name}_high": high}
    return numbers


def _bland_altman(found: BlandAltman | None) -> Row:
    low, high = found.bias_interval if found else (None, None)
    return {
        "bias_ml": found.bias if found else None,
        "bias_low_ml": low,
        "bias_high_ml": high,
        "lower_limit_ml": found.lower if found else None,
        "upper_limit_ml": found.upper if found else None,
    }
