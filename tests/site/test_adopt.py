"""A studies folder that monailabel itself made becomes cases, reads and prelabels, and stays as it was."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from apps import compat
from apps.accounts import Accounts
from apps.adopt import ADOPTED, AdoptReport, ByClient, adopt
from apps.settings import Site
from apps.studies_folder import INDEX, StudiesError
from labeling_protocols import audit
from labeling_protocols.geometry import Volume
from labeling_protocols.label_codec import decode_label
from labeling_protocols.records import Account, Read
from labeling_protocols.store import Store
from labeling_protocols.volumes import write_volume
from tests.conftest import OBLIQUE, image_of, label_of

compat.mend()
from monailabel.datastore.local import LocalDatastore  # noqa: E402  mended first

NAMES = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]


class Studies:
    """A folder filled through monailabel's own datastore."""

    def __init__(self, root: Path) -> None:
        self.root = root / "studies"
        self.root.mkdir()
        self._made = root / "made"
        self._made.mkdir()
        self._datastore = LocalDatastore(str(self.root), extensions=("*.nii.gz", "*.nii", "*.nrrd"))

    def add_image(self, name: str, seed: int) -> None:
        write_volume(image_of(seed), self._made / f"{name}.nii.gz")
        self._datastore.add_image(name, str(self._made / f"{name}.nii.gz"), {})

    def save(self, name: str, tag: str, label: Volume, **info: object) -> None:
        write_volume(label, self._made / "label.nrrd")
        self._datastore.save_label(name, str(self._made / "label.nrrd"), tag, dict(info))

    def content(self) -> Mapping[str, tuple[bytes, int]]:
        """Every byte of the folder, and when it was last changed."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path)


def taken(store: Store, site: Site, studies: Studies, reader: Account | ByClient) -> AdoptReport:
    before = studies.content()
    report = adopt(store, site, studies.root, protocol_name="hippocampus", readers=reader)
    assert studies.content() == before, "the folder must stay as it was"
    return report


def figures(report: AdoptReport) -> tuple[int, int, int, int, int]:
    return report.cases, report.reads, report.prelabels, report.known, len(report.refused)


def reads(store: Store) -> list[Read]:
    return [read for case in store.cases("hippocampus") for read in store.reads(case.id)]


def test_versions_final_and_original_become_revisions_in_order_and_a_prelabel(
    studies: Studies, store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    studies.add_image("ann-smith", 1)
    for tag, shift in (("final", 2), ("version_10", 2), ("version_2", 1), ("original", 0)):
        studies.save("ann-smith", tag, label_of(shift), label_info=NAMES, client_id="user-xyz")
    assert figures(taken(store, site, studies, readers[0])) == (1, 2, 1, 0, 0)  # version_10 is final
    (case,) = store.cases("hippocampus")
    kept = store.reads(case.id, readers[0].id)
    assert [read.revision for read in kept] == [1, 2]
    for read, shift in zip(kept, (1, 2), strict=True):
        assert np.array_equal(store.label(read.label).array_ZYX, label_of(shift).array_ZYX)
        assert read.provenance.client == ADOPTED
        assert abs((datetime.now(UTC) - read.created).total_seconds()) < 3600
    prelabel = store.prelabel(case.id)
    assert prelabel is not None
    assert prelabel.model == ADOPTED
    assert np.array_equal(store.label(prelabel.label).array_ZYX, label_of(0).array_ZYX)
    with store.engine.connect() as connection:
        actions = [entry.action for entry in audit.entries(connection)]
    assert actions.count(audit.Action.READ_ADOPTED) == 2


def test_adopting_twice_takes_nothing_twice_and_later_what_is_new(
    studies: Studies, store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    studies.add_image("a", 1)
    studies.save("a", "original", label_of(0), label_info=NAMES)
    studies.save("a", "version_1", label_of(1), label_info=NAMES)
    studies.save("a", "final", label_of(2), label_info=NAMES)
    taken(store, site, studies, readers[0])
    assert figures(taken(store, site, studies, readers[0])) == (0, 0, 0, 4, 0)
    assert len(reads(store)) == 2
    studies.save("a", "final", label_of(3), label_info=NAMES)
    studies.add_image("b", 2)
    assert figures(taken(store, site, studies, readers[0])) == (1, 1, 0, 3, 0)
    assert [read.revision for read in reads(store)] == [1, 2, 3]


def test_values_are_mapped_by_the_names_the_client_gave_them(
    studies: Studies, store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    studies.add_image("a", 1)
    studies.save("a", "final", label_of(), label_info=[{"name": "posterior"}, {"name": "anterior"}])
    studies.save("a", "original", label_of(), label_names={"posterior": 1, "anterior": 2})
    taken(store, site, studies, readers[0])
    expected = np.array([0, 2, 1], np.uint8)[label_of().array_ZYX]
    (case,) = store.cases("hippocampus")
    prelabel = store.prelabel(case.id)
    assert prelabel is not None
    for digest in (reads(store)[0].label, prelabel.label):
        assert np.array_equal(store.label(digest).array_ZYX, expected)


def test_each_clients_labels_become_the_account_of_its_name(
    studies: Studies, store: Store, site: Site, accounts: Accounts, readers: tuple[Account, Account]
) -> None:
    ann, ben = readers
    studies.add_image("a", 1)
    studies.save("a", "version_1", label_of(0), label_info=NAMES, client_id="ann")
    studies.save("a", "version_2", label_of(1), label_info=NAMES, client_id="ben")
    studies.save("a", "version_3", label_of(2), label_info=NAMES, client_id="user-xyz")
    studies.save("a", "final", label_of(2), label_info=NAMES)
    report = taken(store, site, studies, ByClient(accounts.find))
    assert {read.reader for read in reads(store)} == {ann.id, ben.id}
    assert [refusal.reason.split(";")[0].split(".")[0] for refusal in report.refused] == [
        "no account is called as its client, 'user-xyz'",
        "its label does not say which client saved it",
    ]
    assert figures(taken(store, site, studies, ByClient(accounts.find))) == (0, 0, 0, 3, 2)


def test_labels_that_the_index_lost_are_taken_too(
    studies: Studies, store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    """Two processes that save at once lose index entries; the files stay."""
    studies.add_image("a", 1)
    studies.add_image("b", 2)
    studies.save("b", "final", label_of(), label_info=NAMES)
    index = json.loads((studies.root / INDEX).read_text())
    index["objects"] = {"a": index["objects"]["a"]}
    (studies.root / INDEX).write_text(json.dumps(index))
    assert figures(taken(store, site, studies, readers[0])) == (2, 1, 0, 0, 0)


def test_what_cannot_be_taken_is_named_and_the_rest_goes_on(
    studies: Studies, store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    for seed, name in enumerate(("bad image", "elsewhere", "foreign", "good", "tagged")):
        studies.add_image(name, seed)
        studies.save(name, "final", label_of(), label_info=NAMES)
    (studies.root / "bad image.nii.gz").write_bytes(b"\x1f\x8b\x08 no NIfTI")
    moved = label_of(geometry=type(OBLIQUE)(**{**OBLIQUE.__dict__, "origin_mm_LPS": (0.0, 0.0, 0.0)}))
    studies.save("elsewhere", "final", moved, label_info=NAMES)
    studies.save("foreign", "final", label_of(), label_info=[{"name": "spleen"}, {"name": "liver"}])
    studies.save("tagged", "draft", label_of(), label_info=NAMES)
    report = taken(store, site, studies, readers[0])
    assert figures(report) == (4, 2, 0, 0, 4)
    reasons = {refusal.where: refusal.reason for refusal in report.refused}
    assert "could not be read" in reasons["bad image.nii.gz"]
    assert "grid" in reasons["final/elsewhere.nrrd"]
    assert "spleen" in reasons["final/foreign.nrrd"]
    assert "its tag is 'draft'" in reasons["draft/tagged.nrrd"]
    assert not any(name in reason for reason in reasons.values() for name in ("bad image", "tagged.nrrd"))


@pytest.mark.parametrize(
    "content",
    [
        None,
        '{"objects": {"a": {"image"',
        '{"images_dir": "../elsewhere", "objects": {}}',
        '{"objects": {"../a": {"image": {"ext": ".nii.gz"}}}}',
        '{"objects": {"a": {"image": {"ext": ".nii.gz"}, "labels": {"../..": {"ext": ".nrrd"}}}}}',
    ],
    ids=["no index", "a cut one", "a folder elsewhere", "an image elsewhere", "a tag elsewhere"],
)
def test_a_folder_that_is_none_of_monailabels_is_refused_whole(
    content: str | None, studies: Studies, store: Store, site: Site, readers: tuple[Account, Account]
) -> None:
    studies.add_image("a", 1)
    if content is None:
        (studies.root / INDEX).unlink()
    else:
        (studies.root / INDEX).write_text(content)
    with pytest.raises(StudiesError, match="Nothing was taken"):
        taken(store, site, studies, readers[0])
    assert store.cases("hippocampus") == []


def test_a_moved_folder_is_known_again(
    studies: Studies, store: Store, site: Site, readers: tuple[Account, Account], tmp_path: Path
) -> None:
    studies.add_image("a", 1)
    studies.save("a", "final", label_of(), label_info=NAMES)
    taken(store, site, studies, readers[0])
    shutil.copytree(studies.root, tmp_path / "copy")
    report = adopt(store, site, tmp_path / "copy", protocol_name="hippocampus", readers=readers[0])
    assert figures(report) == (0, 0, 0, 2, 0)
    assert decode_label(store.blobs.get(reads(store)[0].label)).geometry.difference(OBLIQUE) is None
