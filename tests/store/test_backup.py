"""A running site is backed up into a folder, and made again from it on either database."""

import json
import os
import sqlite3
import stat
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from apps.command import app
from apps.settings import Site, make_site
from labeling_protocols import audit, schema
from labeling_protocols.adjudications import adjudicate, adjudications, signature_holds
from labeling_protocols.audit import Action
from labeling_protocols.backup import BackupError, back_up, backups, files_of, opened
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.disputes import claim, reopen, standing_over
from labeling_protocols.edits import begin_edit, save_edit
from labeling_protocols.engine import make_engine
from labeling_protocols.records import Account, Case, Part
from labeling_protocols.settlement import settle
from labeling_protocols.store import Store
from labeling_protocols.worklist import next_case
from tests.conftest import image_of
from tests.postgres import Postgres
from tests.store.examples import assert_whole, disputed_case, numbered_label, seated_cases
from tests.store.processes import CONTEXT


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """A site whose settings name the database."""
    site = make_site(tmp_path / "site")
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
        with (site.root / "config.toml").open("a") as file:
            file.write(f'\n[store]\ndatabase = "{url}"\n')
    return Site(site.root)


@pytest.fixture
def database_url(site: Site) -> str:
    return site.database_url


@pytest.fixture
def cases(store: Store, readers: tuple[Account, Account]) -> list[Case]:
    cases = seated_cases(store, readers, 3)
    for number, case in enumerate(cases):
        store.save_read(case_id=case.id, reader=readers[0].id, label=numbered_label(number))
    return cases


@pytest.fixture
def settled(store: Store, site: Site, readers: tuple[Account, Account], judges: tuple[Account, ...]) -> Case:
    """A dispute that was drawn anew, decided, reopened and claimed again."""
    case = disputed_case(store, readers, seed=9)
    begin_edit(store, case.id, judges[0].id, "consensus:union")
    save_edit(store, case.id, judges[0].id, numbered_label(5))
    parts = [Part(source="edit:1"), Part(source=f"reader:{readers[0].id}", structure="anterior")]
    named = {"case_id": case.id, "adjudicator": judges[0].id, "rationale": "drawn anew"}
    adjudicate(store, parts=parts, signing_key=site.signing_key, **named)  # type: ignore[arg-type]
    reopen(store, case.id, judges[1].id, "look again")
    settle(store, case.id)
    claim(store, case.id, judges[1].id)
    return case


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def run(*words: object) -> str:
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def rows(url: str) -> dict[str, list[str]]:
    engine = make_engine(url)
    with engine.connect() as connection:
        found = {
            table.name: sorted(str([str(value) for value in row]) for row in connection.execute(sa.select(table)))
            for table in schema.metadata.sorted_tables
        }
    engine.dispose()
    return found


def restored(folder: Path, to: Path, *options: str) -> Site:
    assert "Everything is whole" in run("store", "restore", folder, "--to", to, *options)
    return Site(to)


def test_a_site_comes_back_as_it_was_on_either_database(
    store: Store, site: Site, cases: list[Case], settled: Case, folder: Path, tmp_path: Path, postgres: Postgres
) -> None:
    (site.folder("archive") / "series.dcm").write_bytes(b"pixels")
    assert "keep it where only you can read it" in run("store", "backup", folder, "--site", site.root)
    before = rows(site.database_url)
    made_up_for = {"audit"}  # the entries that say so: backed up here, restored there
    url = postgres.new_database()
    for name, options in (("as-sqlite", []), ("as-postgresql", ["--database", url])):
        copy = restored(folder, tmp_path / name, *options)
        assert copy.database_url.startswith(name.removeprefix("as-"))
        after = rows(copy.database_url)
        assert {table for table in before if before[table] != after[table]} == made_up_for
        assert (copy.root / "archive" / "series.dcm").read_bytes() == b"pixels"
        assert copy.secret == site.secret
        kept = Store(copy.database_url, copy.blobs)
        assert [kept.label(read.label).layers_LZYX.sum() for read in kept.reads(cases[0].id)]
        assert standing_over(kept, settled.id) == standing_over(store, settled.id)
        [decision] = adjudications(kept, settled.id)
        assert signature_holds(decision, copy.public_key)
        kept.close()


def test_a_restored_site_is_worked_on_at_once(
    store: Store,
    site: Site,
    cases: list[Case],
    readers: tuple[Account, Account],
    folder: Path,
    tmp_path: Path,
    postgres: Postgres,
) -> None:
    back_up(store, site.root, folder, actor="command line")
    copy = restored(folder, tmp_path / "copy", "--database", postgres.new_database())
    again = Store(copy.database_url, copy.blobs)
    assert again.save_read(case_id=cases[0].id, reader=readers[0].id, label=numbered_label(77)).revision == 2
    again.withdraw(case_id=cases[1].id, reader=readers[0].id, actor="command line", reason="a slip")
    again.add_case(protocol="hippocampus", patient="P", volume=image_of(99), modality="MR")
    assert next_case(again, "hippocampus", readers[0].id) is not None
    assert_whole(again, copy)
    again.close()


def _save_until(ended: Event, url: str, blobs: FolderBlobs, reader: str, cases: list[Case], pipe: Connection) -> None:
    store = Store(url, blobs)
    number = 1000
    while not ended.is_set():
        case = cases[number % len(cases)]
        saved = store.save_read(case_id=case.id, reader=reader, label=numbered_label(number))
        os.write(pipe.fileno(), f"{case.id} {reader} {saved.revision} {saved.label}\n".encode())
        number += 1
    store.close()


def test_a_backup_holds_what_was_acknowledged_before_it_while_readers_save_on(
    store: Store, site: Site, cases: list[Case], readers: tuple[Account, Account], folder: Path, tmp_path: Path
) -> None:
    store.engine.dispose()
    read, write = CONTEXT.Pipe(duplex=False)
    ended = CONTEXT.Event()
    writers = [
        CONTEXT.Process(target=_save_until, args=(ended, site.database_url, site.blobs, reader.id, cases, write))
        for reader in readers
    ]
    for writer in writers:
        writer.start()
    acknowledged = b""
    while acknowledged.count(b"\n") < 20:
        acknowledged += os.read(read.fileno(), 1 << 16)
    made = back_up(store, site.root, folder, actor="command line")
    saved_meanwhile = os.read(read.fileno(), 1 << 16).count(b"\n")
    ended.set()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert saved_meanwhile > 0
    copy = restored(folder, tmp_path / "copy")
    kept = Store(copy.database_url, copy.blobs)
    for line in acknowledged.decode().split("\n")[:-1]:
        case_id, reader, revision, label = line.split()
        assert [found.label for found in kept.reads(case_id, reader) if found.revision == int(revision)] == [label]
    assert sum(len(kept.reads(case.id)) for case in cases) == made.rows["reads"]
    kept.close()


def test_a_second_backup_copies_only_what_is_new(
    store: Store, site: Site, cases: list[Case], readers: tuple[Account, Account], folder: Path, tmp_path: Path
) -> None:
    (site.folder("bundles") / "bundle.zip").write_bytes(b"a model")
    first = back_up(store, site.root, folder, actor="command line")
    there = {path: path.stat().st_mtime_ns for path in (folder / "files").rglob("*") if path.is_file()}
    store.save_read(case_id=cases[0].id, reader=readers[1].id, label=numbered_label(88))
    second = back_up(store, site.root, folder, actor="command line")
    now_there = {path: path.stat().st_mtime_ns for path in (folder / "files").rglob("*") if path.is_file()}
    assert {path: now_there[path] for path in there} == there
    new = {path.name for path in now_there.keys() - there.keys()}
    assert new == {second.database, *second.blobs} - {first.database, *first.blobs}
    assert backups(folder) == [first.name, second.name]
    old = restored(folder, tmp_path / "old", "--backup", first.name)
    kept = Store(old.database_url, old.blobs)
    assert len(kept.reads(cases[0].id)) == 1
    kept.close()


def test_nobody_else_may_read_a_backup(store: Store, site: Site, folder: Path, tmp_path: Path) -> None:
    back_up(store, site.root, folder, actor="command line")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "files").rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.json")} == {0o600}
    copy = restored(folder, tmp_path / "copy")
    assert stat.S_IMODE((copy.root / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((copy.root / "keys" / "signing.pem").stat().st_mode) == 0o600


def test_other_databases_of_the_site_are_copied_whole(store: Store, site: Site, folder: Path, tmp_path: Path) -> None:
    writing = sqlite3.connect(site.root / "jobs.db")
    writing.execute("pragma journal_mode = wal")
    writing.execute("create table jobs (name text)")
    writing.execute("insert into jobs values ('train')")
    writing.commit()  # in the -wal file still, the connection open
    back_up(store, site.root, folder, actor="command line")
    copy = restored(folder, tmp_path / "copy")
    writing.close()
    assert sqlite3.connect(copy.root / "jobs.db").execute("select name from jobs").fetchall() == [("train",)]


def test_a_backup_that_is_not_whole_is_not_restored(
    store: Store, site: Site, cases: list[Case], folder: Path, tmp_path: Path
) -> None:
    made = back_up(store, site.root, folder, actor="command line")
    kept = files_of(folder)
    kept.path(made.blobs[0]).write_bytes(b"other bytes")
    with pytest.raises(BackupError, match=made.blobs[0]):
        opened(folder)
    (folder / f"backup-{made.name}.json").unlink()
    with pytest.raises(BackupError, match="no backup was finished"):
        opened(folder)
    refused = CliRunner().invoke(app, ["store", "restore", str(folder), "--to", str(tmp_path / "copy")])
    assert isinstance(refused.exception, BackupError)
    assert not (tmp_path / "copy").exists()


def test_a_site_is_never_restored_over_another(
    store: Store, site: Site, cases: list[Case], folder: Path, tmp_path: Path
) -> None:
    back_up(store, site.root, folder, actor="command line")
    refused = CliRunner().invoke(app, ["store", "restore", str(folder), "--to", str(site.root)])
    assert "is not empty" in str(refused.exception)
    words = ["store", "restore", str(folder), "--to", str(tmp_path / "copy"), "--database", site.database_url]
    assert "is in use" in str(CliRunner().invoke(app, words).exception)
    assert not (tmp_path / "copy" / "config.toml").exists()


def test_a_password_on_the_command_line_is_refused(store: Store, site: Site, folder: Path, tmp_path: Path) -> None:
    back_up(store, site.root, folder, actor="command line")
    words = ["store", "restore", str(folder), "--to", str(tmp_path / "copy"), "--database", "postgresql://a:b@host/c"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "PGPASSWORD" in refused.output
    assert not (tmp_path / "copy").exists()


def test_a_damaged_blob_is_told_of_and_the_rest_is_kept(
    store: Store, site: Site, cases: list[Case], folder: Path
) -> None:
    assert isinstance(store.blobs, FolderBlobs)
    store.blobs.path(cases[0].image).write_bytes(b"other bytes")
    found = CliRunner().invoke(app, ["store", "backup", str(folder), "--site", str(site.root)])
    assert found.exit_code == 1
    assert cases[0].image in found.output
    made = opened(folder)
    assert made.missing == (cases[0].image,)
    assert cases[1].image in made.blobs


def test_backups_and_restores_are_in_the_audit_chain(store: Store, site: Site, folder: Path, tmp_path: Path) -> None:
    back_up(store, site.root, folder, actor="command line")
    copy = restored(folder, tmp_path / "copy")
    for root, action in ((site.root, Action.SITE_BACKED_UP), (copy.root, Action.SITE_RESTORED)):
        assert "command line" in run("audit", "show", "--last", 1, "--of", action, "--site", root)
        kept = Store(Site(root).database_url, Site(root).blobs)
        with kept.engine.connect() as connection:
            assert [entry.action for entry in audit.entries(connection)][-1] == action
        kept.close()
        assert "none changed" in run("audit", "verify", "--site", root)


def test_verify_ends_with_code_1_and_repair_counts_anew(store: Store, site: Site, cases: list[Case]) -> None:
    with store.writing() as connection:
        connection.execute(sa.text("update tallies set total = total + 1 where kind = 'reads'"))
    found = CliRunner().invoke(app, ["store", "verify", "--site", str(site.root)])
    assert found.exit_code == 1
    assert "the tally of reads" in found.output
    assert "Everything is whole" in run("store", "verify", "--repair", "--site", site.root)


def test_the_manifest_names_no_password(store: Store, site: Site, folder: Path) -> None:
    made = back_up(store, site.root, folder, actor="command line")
    assert set(json.loads((folder / f"backup-{made.name}.json").read_text())) == {
        "format", "name", "root", "database", "rows", "blobs", "missing", "files",
    }  # fmt: skip
