"""What evaluation is broken down by is kept with a case, and filled in later where it was not known."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from apps.settings import Site
from labeling_protocols import audit, schema
from labeling_protocols.backup import back_up, opened
from labeling_protocols.blobs import FolderBlobs
from labeling_protocols.records import Case
from labeling_protocols.restoring import restore
from labeling_protocols.store import Store, now
from labeling_protocols.strata import ATTRIBUTES, Strata, StrataError, age_band
from labeling_protocols.verification import verify
from tests.conftest import image_of

FULL = Strata(maker="Siemens", model="Skyra", slice_thickness_mm=3.5, sex="F", age_band="40-49", site="north")


def add_case(store: Store, strata: Strata = Strata(), seed: int = 1) -> tuple[Case, bool]:
    volume = image_of(seed)
    return store.add_case(protocol="hippocampus", patient=f"P{seed}", volume=volume, modality="MR", strata=strata)


@pytest.mark.parametrize(
    ("years", "band"), [(0, "00-09"), (9, "00-09"), (10, "10-19"), (47, "40-49"), (89, "80-89"), (90, "90+")]
)
def test_ages_are_bands_of_ten_years_and_all_from_90_on_are_one(years: int, band: str) -> None:
    assert age_band(years) == band


@given(st.integers(0, 130))
def test_every_age_has_a_band_that_a_case_may_carry_and_that_holds_no_age_alone(years: int) -> None:
    band = Strata(age_band=age_band(years)).group("age_band")
    assert band is not None
    if years >= 90:
        assert band == "90+"
    else:
        low, high = map(int, band.split("-"))
        assert low <= years <= high == low + 9


@pytest.mark.parametrize(
    ("thickness_mm", "band"),
    [(0.6, "<=1 mm"), (1.0, "<=1 mm"), (1.01, "1-3 mm"), (3.0, "1-3 mm"), (5.0, "3-5 mm"), (5.5, ">5 mm")],
)
def test_thicknesses_are_grouped_in_bands_whose_upper_end_belongs_to_them(thickness_mm: float, band: str) -> None:
    assert Strata(slice_thickness_mm=thickness_mm).group("slice_thickness") == band


def test_every_attribute_has_a_group_or_none_and_another_is_refused() -> None:
    groups = ["Siemens", "Skyra", "3-5 mm", "F", "40-49", "north"]
    assert [FULL.group(attribute) for attribute in ATTRIBUTES] == groups
    assert [Strata().group(attribute) for attribute in ATTRIBUTES] == [None] * 6
    with pytest.raises(StrataError, match="no attribute 'station'"):
        FULL.group("station")


@pytest.mark.parametrize(
    "values",
    [
        {"sex": "female"},
        {"age_band": "47"},
        {"age_band": "40-59"},
        {"age_band": "90-99"},
        {"slice_thickness_mm": 0.0},
        {"slice_thickness_mm": float("nan")},
        {"maker": ""},
        {"model": " Skyra"},
        {"site": "n" * 65},
    ],
)
def test_a_value_that_no_case_may_carry_is_refused_without_repeating_it(values: dict[str, object]) -> None:
    with pytest.raises(StrataError) as refused:
        Strata(**values)  # type: ignore[arg-type]
    (value,) = values.values()
    assert not isinstance(value, str) or not value or value not in str(refused.value)


def test_what_is_stored_comes_back_and_what_is_no_stratum_is_refused() -> None:
    assert Strata.from_json(FULL.as_json()) == FULL
    assert Strata.from_json(None) == Strata()
    with pytest.raises(StrataError, match="found birth_date among a case's strata"):
        Strata.from_json({"birth_date": "19410203"})


def test_a_case_keeps_its_strata_and_one_without_any_says_nothing(store: Store) -> None:
    case, _ = add_case(store, FULL)
    assert (case.strata, store.case(case.id).strata) == (FULL, FULL)
    plain, _ = add_case(store, seed=2)
    assert plain.strata == Strata()
    with store.engine.connect() as connection:
        query = sa.select(schema.cases.c.id).where(schema.cases.c.strata.is_(None))
        assert connection.execute(query).scalars().all() == [plain.id]


def test_an_image_that_comes_again_fills_in_what_was_not_known_and_changes_nothing_else(store: Store) -> None:
    case, _ = add_case(store, Strata(maker="Siemens"))
    again, is_new = add_case(store, Strata(maker="GE", sex="F"))
    assert (again.id, is_new) == (case.id, False)
    assert again.strata == Strata(maker="Siemens", sex="F")
    add_case(store)
    assert store.case(case.id) == again
    with store.engine.connect() as connection:
        entries = [entry for entry in audit.entries(connection) if entry.action == audit.Action.STRATA_LEARNED]
    assert [entry.subject for entry in entries] == [case.id]


def test_strata_that_are_none_are_found_when_the_store_is_verified(store: Store, site: Site) -> None:
    case, _ = add_case(store, FULL)
    with store.writing() as connection:
        connection.execute(sa.update(schema.cases).values(strata={"sex": "both"}))
    words = [finding.words for finding in verify(store, site.public_key).findings]
    assert words == [f"case {case.id}: found a sex that is none of F, M, O"]


def keep_a_snapshot(store: Store) -> str:
    """A row of a snapshot with a patient's side, and its blob."""
    digest = store.blobs.put(b"{}")
    with store.writing() as connection:
        row = {"protocol": "hippocampus", "protocol_version": 1, "cases": 1, "actor": "server", "created": now()}
        connection.execute(sa.insert(schema.snapshots).values(digest=digest, **row))
        side = {"protocol": "hippocampus", "patient": "P1", "held_out": True, "snapshot": digest}
        connection.execute(sa.insert(schema.split_sides).values(**side))
    return digest


def test_strata_snapshots_and_sides_come_back_from_a_backup(store: Store, site: Site, tmp_path: Path) -> None:
    case, _ = add_case(store, FULL)
    digest = keep_a_snapshot(store)
    folder, to = tmp_path / "backups", tmp_path / "copy"
    back_up(store, site.root, folder, actor="command line")
    backup = opened(folder)
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    restore(folder, backup, to, database=url, blobs=to / "blobs", config=b"", actor="command line")
    copy = Store(url, FolderBlobs(to / "blobs"))
    assert copy.case(case.id).strata == FULL
    assert copy.blobs.get(digest) == b"{}"
    with copy.engine.connect() as connection:
        assert connection.execute(sa.select(schema.split_sides)).all() == [("hippocampus", "P1", True, digest)]
    copy.close()


def test_a_missing_snapshot_is_found_when_the_store_is_verified(store: Store, site: Site) -> None:
    digest = keep_a_snapshot(store)
    assert verify(store, site.public_key).findings == ()
    assert isinstance(store.blobs, FolderBlobs)
    store.blobs.path(digest).unlink()
    words = [finding.words for finding in verify(store, site.public_key).findings]
    assert words == [f"blob {digest} is missing; restore it from a backup"]


@pytest.mark.parametrize("table", ["snapshots", "split_sides"])
def test_neither_a_snapshot_nor_a_side_is_ever_changed_or_deleted(store: Store, table: str) -> None:
    keep_a_snapshot(store)
    for act in (f"update {table} set protocol = 'liver'", f"delete from {table}"):
        with pytest.raises(sa.exc.DBAPIError, match="never changed or deleted"), store.writing() as connection:
            connection.execute(sa.text(act))


_SINCE = {
    "cases": ("channels", "strata"),
    "received_instances": ("sop_class", "transfer_syntax", "bytes", "sender", "layout"),
    "results": ("protocol", "stage", "rule", "priority", "seconds", "superseded_by"),
}


def test_a_database_of_the_third_release_opens_with_nothing_known_of_its_cases(store: Store, site: Site) -> None:
    """What came since 0003 taken back by hand, so that that release has the same rows."""
    case, _ = add_case(store, FULL)
    url = store.engine.url.render_as_string(hide_password=False)
    with store.writing() as connection:
        tables = ("offers", "strategy_places", "worklist_orders", "case_scores", "case_summaries")
        for table in (*tables, "split_sides", "snapshots", "deliveries"):
            connection.execute(sa.text(f"drop table {table}"))
        connection.execute(sa.text("drop index ix_received_instances_instance"))
        for table, columns in _SINCE.items():
            for column in columns:
                connection.execute(sa.text(f"alter table {table} drop column {column}"))
        connection.execute(sa.text("update alembic_version set version_num = '0003'"))
    store.engine.dispose()
    upgraded = Store(url, site.blobs)
    assert upgraded.case(case.id).strata == Strata()
    assert keep_a_snapshot(upgraded)
    assert add_case(upgraded, FULL)[0].strata == FULL
    upgraded.close()
