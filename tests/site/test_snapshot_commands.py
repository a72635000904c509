"""Snapshots from the command line: taken, listed, shown, compared and verified, and refused in words."""

import json
import re

import pytest
from typer.testing import CliRunner

from apps.accounts import Accounts
from apps.settings import Site
from apps.snapshot_commands import snapshot_app
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.disputes import reopen
from labeling_protocols.records import Account, Case, Role
from labeling_protocols.store import Store, UnknownError
from tests.training.snapshot_examples import NAME, adjudicated_case, read_case
from training.snapshot import SnapshotError, keep_snapshot, open_snapshot
from training.snapshot_index import listed


@pytest.fixture
def judge(accounts: Accounts) -> Account:
    return accounts.add("judge", "judge-password", frozenset({Role.ADJUDICATOR}))


@pytest.fixture
def cases(store: Store, site: Site, readers: tuple[Account, Account], judge: Account) -> list[Case]:
    """Four cases of consensus and one that was adjudicated."""
    return [
        *(read_case(store, readers, number) for number in range(4)),
        adjudicated_case(store, site, readers, judge, 4),
    ]


def snapshot(site: Site, *words: object, code: int = 0) -> str:
    """What the command says; its error, raised, where it ends with one."""
    invoked = [*map(str, words), "--site", str(site.root)]
    done = CliRunner().invoke(snapshot_app, invoked, env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return re.sub(r"\s+", " ", done.output)


def created(site: Site, *words: object) -> str:
    """The digest that `create` prints."""
    found = re.search(r"Snapshot ([0-9a-f]{64})", snapshot(site, "create", NAME, *words))
    assert found is not None
    return found[1]


def test_create_prints_the_digest_the_sides_how_truths_were_settled_and_their_strata(
    site: Site, cases: list[Case], store: Store
) -> None:
    said = snapshot(site, "create", NAME)
    (one,) = listed(store)
    kept = open_snapshot(one.digest, store.blobs)
    assert f"Snapshot {one.digest}." in said
    trained_on, held_out = len(kept.training), len(kept.held_out)
    assert "Side ┃ Cases ┃ Patients ┃ By adjudication ┃ By consensus" in said
    by_side = [sum(case.settled == "adjudication" for case in side) for side in (kept.training, kept.held_out)]
    assert f"Trained on │ {trained_on} │ {trained_on} │ {by_side[0]} │ {trained_on - by_side[0]}" in said
    assert f"Held out │ {held_out} │ {held_out} │ {by_side[1]} │ {held_out - by_side[1]}" in said
    assert "Together │ 5 │ 5 │ 1 │ 4" in said
    siemens = [sum(case.strata.maker == "Siemens" for case in side) for side in (kept.training, kept.held_out)]
    assert f"│ Siemens │ {siemens[0]} │ {siemens[1]} │" in said
    assert re.search(r"slice thickness │ 1-3 mm │ \d │ \d │ │ │ unknown", said)
    assert "which was taken before: nothing changed since." in snapshot(site, "create", NAME)


def test_cases_left_out_are_shown_with_their_reasons(site: Site, cases: list[Case], store: Store) -> None:
    digest = created(site, "--exclude", f"{cases[0].id}=motion [severe] = bad")
    said = snapshot(site, "show", digest[:8])
    assert f"{cases[0].id} │ motion [severe] = bad" in said
    assert f"Snapshot {digest} of protocol hippocampus version 1." in said
    assert f"The protocol's digest is {store.protocol(NAME).digest}." in said


def test_show_prints_what_is_kept_as_json_and_lists_cases_when_asked(
    site: Site, cases: list[Case], store: Store
) -> None:
    digest = created(site)
    done = CliRunner().invoke(snapshot_app, ["show", digest[:8], "--json", "--site", str(site.root)])
    assert done.output.encode().rstrip(b"\n") == store.blobs.get(digest)
    assert len(json.loads(done.output)["cases"]) == 5
    said = snapshot(site, "show", digest, "--cases")
    assert re.search(rf"{cases[4].id} │ P4 │ [a-z ]+ │ adjudication 1 │ GE │ – │ – │ – │ – │ –", said)
    assert re.search(rf"{cases[1].id} │ P1 │ [a-z ]+ │ consensus of reads 3, 4 │ Siemens │ Skyra │ 1-3 mm │ F", said)


def test_list_names_each_snapshot_newest_first(
    site: Site, cases: list[Case], store: Store, readers: tuple[Account, Account]
) -> None:
    first = created(site)
    read_case(store, readers, 9)
    second = created(site)
    said = snapshot(site, "list")
    assert re.search(
        rf"{second[:12]} │ hippocampus │ 1 │ 6 │ .* │ command line .*{first[:12]} │ hippocampus │ 1 │ 5", said
    )
    assert first[:12] in snapshot(site, "list", NAME)
    with pytest.raises(UnknownError, match="unknown protocol"):
        snapshot(site, "list", "liver")


def test_diff_says_what_came_went_and_changed(
    site: Site, cases: list[Case], store: Store, readers: tuple[Account, Account]
) -> None:
    before = created(site)
    assert "They are equal." in snapshot(site, "diff", before, before)
    new = read_case(store, readers, 9)
    after = created(site, "--exclude", f"{cases[0].id}=motion")
    said = snapshot(site, "diff", before[:10], after[:10])
    assert re.search(rf"case added │ {new.id} │ (held out|trained on), consensus of reads", said)
    assert f"case removed │ {cases[0].id} │ motion" in said
    assert f"exclusion │ {cases[0].id} │ not left out → motion" in said
    assert "1 × case added, 1 × case removed, 1 × exclusion." in said


def test_diff_ends_with_code_1_where_a_patient_changed_sides(site: Site, cases: list[Case], store: Store) -> None:
    before = created(site)
    text = store.blobs.get(before).decode()
    forged = store.blobs.put(text.replace('"held_out":true', '"held_out":false').encode())
    said = snapshot(site, "diff", before, forged, code=1)
    assert "was held out and is trained on" in said
    assert "figures of the two snapshots must not be compared" in said


def test_verify_says_what_changed_since_and_ends_well(
    site: Site, cases: list[Case], store: Store, judge: Account
) -> None:
    digest = created(site)
    assert f"Snapshot {digest[:12]}: nothing wrong. Nothing changed since." in snapshot(site, "verify", digest[:9])
    reopen(store, cases[4].id, judge.id, "look again")
    said = snapshot(site, "verify", digest)
    assert f"truth │ {cases[4].id} │ it was reopened, and is settled by nothing yet" in said
    assert "21 blobs re-hashed, 5 truths are what their reads and decisions come to." in said
    assert "nothing wrong. 1 thing(s) changed since." in said


def test_verify_ends_with_code_1_where_a_blob_is_damaged_or_missing(
    site: Site, cases: list[Case], store: Store
) -> None:
    digest = created(site)
    assert isinstance(store.blobs, FolderBlobs)
    store.blobs.path(cases[0].image).write_bytes(b"other bytes")
    said = snapshot(site, "verify", digest, code=1)
    assert f"wrong: case {cases[0].id}: its image is damaged" in said
    assert f"Snapshot {digest[:12]}: 1 wrong." in said
    store.blobs.path(digest).unlink()
    assert "the snapshot itself is missing" in snapshot(site, "verify", digest, code=1)
    for words in (("show", digest), ("diff", digest, digest)):
        with pytest.raises(SnapshotError, match=f"snapshot {digest[:12]} is missing; restore its blob"):
            snapshot(site, *words)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("create", "liver"), UnknownError, "unknown protocol"),
        (("create", NAME, "--exclude", "no equals sign"), SnapshotError, "takes CASE=REASON"),
        (("create", NAME, "--exclude", "{case}=a", "--exclude", "{case}=b"), SnapshotError, "each case once"),
        (("create", NAME, "--exclude", "{case}="), SnapshotError, "needs a reason"),
        (("create", NAME, "--exclude", "case=motion"), SnapshotError, "none of this protocol's"),
        (("show", "ffff"), SnapshotError, "0 snapshots begin with ffff"),
        (("show", "xyz"), SnapshotError, "first characters of its digest"),
        (("verify", "0" * 64), SnapshotError, "0 snapshots begin with"),
    ],
)
def test_what_cannot_be_done_is_said(
    site: Site, cases: list[Case], words: tuple[str, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        snapshot(site, *(word.format(case=cases[0].id) for word in words))


def test_too_few_truths_are_refused(site: Site, store: Store) -> None:
    with pytest.raises(SnapshotError, match="has 0 settled case"):
        snapshot(site, "create", NAME)


def test_a_snapshot_of_another_protocol_is_not_compared(site: Site, cases: list[Case], store: Store) -> None:
    digest = created(site)
    text = store.blobs.get(digest).decode().replace('"protocol":"hippocampus"', '"protocol":"liver"')
    other = store.blobs.put(text.encode())
    assert keep_snapshot(open_snapshot(other, store.blobs), store.blobs) == other
    with pytest.raises(SnapshotError, match="one snapshot is of protocol hippocampus, the other of liver"):
        snapshot(site, "diff", digest, other)
