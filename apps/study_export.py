"""A protocol's whole reader study in; a folder with its tables, codebook, protocol, audit excerpt and manifest out.

The folder appears whole or not at all, together with the audit entry that it was made. The same store gives the same
bytes, but for the head of the audit chain, which stands in the manifest alone.
"""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from apps.export_folder import MANIFEST, ExportError, unfinished_folder
from apps.settings import Site
from apps.study_decisions import AuditHead, audit_excerpt, decision_tables
from apps.study_files import Row, digests, write_tables
from apps.study_tables import reading_tables
from labeling_protocols import audit
from labeling_protocols.audit import Action
from labeling_protocols.blobs import write_durably
from labeling_protocols.protocol import Protocol
from labeling_protocols.store import Store


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """How much was written: rows by table; `broken` is the first audit entry that is not what was written, or None."""

    rows: dict[str, int]
    files: int
    broken: int | None


def export_study(store: Store, site: Site, *, protocol: str, folder: Path, actor: str) -> StudyReport:
    """Write a reader study into a new or empty folder.

    Raises `ExportError` or `UnknownError`, having written nothing.
    """
    asked = store.protocol(protocol)
    cases = {case.id for case in store.cases(protocol)}
    if not cases:
        raise ExportError(f"protocol {protocol} has no cases to export. Nothing was written.")
    with unfinished_folder(folder) as unfinished:
        tables = {**reading_tables(store, protocol), **decision_tables(store, protocol, site.public_key)}
        versions = [store.protocol(protocol, number) for number in _versions(tables["reads"], asked)]
        subjects = cases | {f"{protocol} {used.version}" for used in versions}
        tables["audit"], head = audit_excerpt(store, subjects)
        rows = {name: len(found) for name, found in tables.items()}
        write_tables(unfinished, tables)
        _write_protocols(unfinished, versions)
        files = _write_manifest(unfinished, asked, rows, head)
        report = StudyReport(rows=rows, files=files, broken=head.broken)
        with store.writing() as connection:
            audit.append(
                connection,
                actor=actor,
                action=Action.LABELS_EXPORTED,
                subject=protocol,
                what="study",
                rows=report.rows,
                files=report.files,
            )
            unfinished.replace(folder)
    return report


def _versions(reads: list[Row], newest: Protocol) -> list[int]:
    """The protocol's versions that a read answers, and its newest."""
    return sorted({int(str(row["protocol_version"])) for row in reads} | {newest.version})


def _write_protocols(folder: Path, versions: list[Protocol]) -> None:
    """Each version as JSON and as a protocol file that `overread protocol check` takes."""
    (folder / "protocol").mkdir()
    for protocol in versions:
        content = json.loads(protocol.as_json())
        as_yaml = yaml.safe_dump(content, sort_keys=True, allow_unicode=True)
        stem = folder / "protocol" / f"{protocol.name}_v{protocol.version}"
        write_durably(stem.with_suffix(".yaml"), as_yaml.encode())
        write_durably(stem.with_suffix(".json"), (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _write_manifest(folder: Path, protocol: Protocol, rows: dict[str, int], head: AuditHead) -> int:
    """Write what was exported and the SHA-256 of each file but this one; how many files there are."""
    files = digests(folder)
    manifest = {
        "what": "reader study",
        "protocol": {"name": protocol.name, "version": protocol.version, "digest": protocol.digest},
        "made_by": f"overread {version('overread')}",
        "rows": rows,
        "files": files,
        "audit_head": asdict(head),
    }
    write_durably(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return len(files) + 1
