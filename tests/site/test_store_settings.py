"""Where a site's rows and blobs lie: its own folder, or what `[store]` names."""

from pathlib import Path

import pytest

from apps.settings import Site, SiteError, make_site
from labeling_protocols.blobs import FolderBlobs, RemoteBlobs
from labeling_protocols.engine import UnusableDatabaseError


def site_with(root: Path, settings: str) -> Site:
    made = make_site(root)
    with (made.root / "config.toml").open("a") as file:
        file.write(f"\n[store]\n{settings}\n")
    return Site(root)


def test_a_new_site_keeps_everything_in_its_folder(site: Site) -> None:
    assert site.database_url == f"sqlite:///{site.root}/overread.db"
    assert isinstance(site.blobs, FolderBlobs)
    assert site.blobs.root == site.root / "blobs"


def test_a_database_elsewhere_is_used_as_it_is_named(tmp_path: Path) -> None:
    url = "postgresql://overread@db.example.org/overread?passfile=/etc/overread.pgpass"
    assert site_with(tmp_path / "site", f'database = "{url}"').database_url == url


def test_a_password_in_the_settings_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="PGPASSWORD") as refused:
        site_with(tmp_path / "site", 'database = "postgresql://overread:hunter2@db.example.org/overread"')
    assert "hunter2" not in str(refused.value)


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableDatabaseError, match="begins with mysql"):
        site_with(tmp_path / "site", 'database = "mysql://db.example.org/overread"')


def test_blobs_lie_in_a_folder_of_the_site_or_another_or_a_remote_store(tmp_path: Path) -> None:
    inside = site_with(tmp_path / "inside", 'blobs = "labels"').blobs
    outside = site_with(tmp_path / "outside", f'blobs = "{tmp_path}/labels"').blobs
    assert isinstance(inside, FolderBlobs)
    assert isinstance(outside, FolderBlobs)
    assert (inside.root, outside.root) == (tmp_path / "inside" / "labels", tmp_path / "labels")
    remote = site_with(tmp_path / "remote", 'blobs = "memory://labels"')
    assert isinstance(remote.blobs, RemoteBlobs)
    digest = remote.blobs.put(b"a label")
    assert remote.blobs.path(digest) == remote.root / "cache" / digest
