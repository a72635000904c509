"""Versions are tried beside the champion: on a share of the studies, or on all of them without being sent."""

from pathlib import Path

import pytest

from apps.settings import make_site
from tests.training.registered import PROTOCOL, REFUSED, Registered
from training.bundle import BundleError
from training.registry import ReleaseError
from training.release_stage import Stage
from training.release_stages import Released, begin, end, released

STUDIES = [f"1.2.{number}" for number in range(2000)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """A champion (1), one that passed and was succeeded (0 before it), and one that its gate refused (3)."""
    site = make_site(tmp_path_factory.mktemp("stages") / "site")
    made = Registered(site.tracking_uri, site.folder("mlflow") / "artifacts", site.folder("bundles"), site.signing_key)
    made.add()
    made.add()
    made.add(REFUSED)
    return made


@pytest.fixture(autouse=True)
def only_the_champion(place: Registered) -> None:
    for stage in (Stage.CANARY, Stage.SHADOW):
        try:
            end(place.registry, PROTOCOL, stage)
        except ReleaseError:
            continue


def shares(of: Released) -> dict[str, float]:
    """Which share of studies each stage reads."""
    readers = [stage for study in STUDIES for stage, _ in of.readers_of(study)]
    return {str(stage): readers.count(stage) / len(STUDIES) for stage in Stage}


def test_the_champion_alone_reads_everything(place: Registered) -> None:
    found = released(place.registry, PROTOCOL)
    assert shares(found) == {"shadow": 0, "canary": 0, "live": 1}
    assert found.live is not None
    assert found.live.number == 2


def test_a_canary_takes_its_share_from_the_champion_and_a_study_always_goes_one_way(place: Registered) -> None:
    begin(place.registry, PROTOCOL, 1, Stage.CANARY, 0.25)
    found = released(place.registry, PROTOCOL)
    told = shares(found)
    assert told["canary"] == pytest.approx(0.25, abs=0.03)
    assert told["live"] == pytest.approx(1 - told["canary"])
    assert [found.readers_of(study) for study in STUDIES[:50]] == [found.readers_of(study) for study in STUDIES[:50]]
    assert end(place.registry, PROTOCOL, Stage.CANARY).number == 1
    assert shares(released(place.registry, PROTOCOL))["live"] == 1


def test_a_shadow_reads_beside_whoever_else_reads_whatever_its_gate_said(place: Registered) -> None:
    begin(place.registry, PROTOCOL, 3, Stage.SHADOW)
    begin(place.registry, PROTOCOL, 1, Stage.CANARY, 0.5)
    told = shares(released(place.registry, PROTOCOL))
    assert (told["shadow"], told["live"] + told["canary"]) == (1, 1)


def test_a_version_that_is_promoted_is_tried_no_more(place: Registered) -> None:
    version = place.add(promoted=False)
    begin(place.registry, PROTOCOL, version.number, Stage.SHADOW)
    promoted = place.registry.promote(PROTOCOL, version.number, place.reports[version.number])
    assert promoted.aliases == {"champion"}
    assert released(place.registry, PROTOCOL).shadow is None
    place.registry.rollback(PROTOCOL)


@pytest.mark.parametrize(
    ("number", "stage", "share", "words"),
    [
        (3, Stage.CANARY, 0.1, "did not pass its gate: mean Dice 0.600 < 0.700. It may be a shadow"),
        (2, Stage.SHADOW, 0.1, "is the champion, which reads studies already"),
        (1, Stage.CANARY, 0.0, "a share of 0 of the studies"),
        (1, Stage.CANARY, 1.5, "a share of 1.5 of the studies"),
        (1, Stage.LIVE, 0.1, "goes live by its gate's report alone"),
        (9, Stage.SHADOW, 0.1, "has no version number 9"),
    ],
)
def test_what_may_not_be_tried_is_refused_and_nothing_changes(
    place: Registered, number: int, stage: Stage, share: float, words: str
) -> None:
    before = released(place.registry, PROTOCOL)
    with pytest.raises(ReleaseError, match=words):
        begin(place.registry, PROTOCOL, number, stage, share)
    assert released(place.registry, PROTOCOL) == before


def test_a_trial_that_there_is_not_cannot_end(place: Registered) -> None:
    with pytest.raises(ReleaseError, match="has no shadow to end"):
        end(place.registry, PROTOCOL, Stage.SHADOW)


def test_a_bundle_that_was_touched_is_not_tried(place: Registered) -> None:
    version = place.registry.version(PROTOCOL, 1)
    path: Path = place.bundles / f"{version.bundle_sha256}.zip"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
        with pytest.raises(BundleError):
            begin(place.registry, PROTOCOL, 1, Stage.SHADOW)
    finally:
        path.write_bytes(content)
    assert released(place.registry, PROTOCOL).shadow is None
