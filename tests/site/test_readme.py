"""The README says what the code says."""

import re

from tests.site.readme import README, ROOT, written


def test_the_readmes_made_parts_are_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == written(text), "run: python -m tests.site.readme"


def test_every_path_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readmes_two_commands_exist_and_can_be_run() -> None:
    text = README.read_text(encoding="utf-8")
    for script in ("scripts/serve", "scripts/test", "scripts/demo", "scripts/check", "scripts/bench"):
        assert script in text
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} is not executable"
