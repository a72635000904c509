"""A site is made once, and a setting that makes no sense is told by its name."""

import stat
from pathlib import Path

import pytest

from apps.settings import Site, SiteError, make_site


def test_a_new_site_can_be_opened_and_its_keys_are_the_owners_alone(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    assert Site(site.root).secret == site.secret
    assert len(site.secret) == 32
    for name in ("signing.pem", "site.key"):
        assert stat.S_IMODE((site.root / "keys" / name).stat().st_mode) == 0o600


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SiteError, match="not empty"):
        make_site(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_is_no_site_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="overread init"):
        Site(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[web]\nport = 70000", "web.port"),
        ("[web]\nprot = 8000", "web.prot"),
        ("[dicom]\nae_title = 'MUCH TOO LONG A TITLE'", "dicom.ae_title"),
        ("[web", "not valid TOML"),
    ],
)
def test_a_bad_setting_is_named(site: Site, text: str, words: str) -> None:
    (site.root / "config.toml").write_text(text)
    with pytest.raises(SiteError, match=words):
        Site(site.root)
