"""Models on the command line: listed, released, taken back, verified and published, and what was overridden is seen."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import typer
from click.testing import Result
from mlflow.tracking._tracking_service import utils
from typer.testing import CliRunner

from apps import model_commands
from apps.accounts import Accounts
from apps.change_control_commands import change_control_app
from apps.settings import Site, make_site
from labeling_protocols import audit
from labeling_protocols.protocol import SHIPPED, load_protocol
from labeling_protocols.records import Role
from labeling_protocols.store import Store
from tests.training.registered import PROTOCOL, REFUSED, Registered
from training.bundle import WEIGHTS
from training.relocation import follow_artifacts
from training.tracking import open_client

REASON = "The one case it fell short on was mislabelled; see the minutes of 3 May."
PASSWORD = "{}-likes-long-words"

app = typer.Typer()
for command in ("models", "promote", "rollback", "verify", "publish"):
    app.command(command)(getattr(model_commands, command))
app.add_typer(change_control_app, name="change-control")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with people, two released versions, and a third that its gate refused."""
    site = make_site(tmp_path_factory.mktemp("models") / "site")
    store = Store(site.database_url, site.blobs)
    store.add_protocol(load_protocol(SHIPPED / "hippocampus.yaml"))
    accounts = Accounts(store, site)
    people = {"eva": Role.ENGINEER, "adam": Role.ADMINISTRATOR, "rita": Role.READER}
    for name, role in people.items():
        accounts.add(name, PASSWORD.format(name), frozenset({role}))
    store.close()
    open_client(site.tracking_uri)
    place = registered(site)
    for decision in (None, None, REFUSED):
        place.add(*([decision] if decision else []))
    return site.root


def registered(site: Site) -> Registered:
    artifacts = site.folder("mlflow") / "artifacts"
    return Registered(site.tracking_uri, artifacts, site.folder("bundles"), site.signing_key)


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A site of its own."""
    root = shutil.copytree(template, tmp_path / "site")
    follow_artifacts(root / "mlflow" / "mlflow.db", template, root)
    utils._artifact_repos_cache.clear()  # MLflow's, by run, whichever the database: it would lead to the template's
    return root


def overread(*words: object, root: Path, typed: str = "") -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--site", str(root)], input=typed)


def audited(root: Path) -> list[audit.Entry]:
    site = Site(root)
    store = Store(site.database_url, site.blobs)
    with store.engine.connect() as connection:
        entries = list(audit.entries(connection))
        assert audit.verify(connection).broken is None
    store.close()
    return entries


def signing(first: str = "eva", second: str = "adam", reason: str = REASON) -> str:
    return "\n".join([reason, first, PASSWORD.format(first), second, PASSWORD.format(second)]) + "\n"


def words_of(result: Result) -> str:
    return " ".join((result.output + str(result.exception or "")).split())


def test_models_are_listed_newest_first_with_gate_and_aliases(root: Path) -> None:
    listed = overread("models", PROTOCOL, root=root)
    lines = [line for line in listed.output.splitlines() if "hippocampus-segmentation" in line]
    assert ["1.0.2" in lines[0], "1.0.1" in lines[1], "1.0.0" in lines[2]] == [True] * 3
    assert "failed" in lines[0]
    assert "candidate" in lines[0]
    assert "passed" in lines[1]
    assert "champion" in lines[1]


def test_a_rollback_and_a_promotion_are_audited(root: Path) -> None:
    assert "Champion is now hippocampus-segmentation 1.0.0." in overread("rollback", PROTOCOL, root=root).output
    assert "Champion is now hippocampus-segmentation 1.0.1." in overread("promote", PROTOCOL, 2, root=root).output
    back, forth = [entry for entry in audited(root) if entry.action == "model released"]
    assert (back.subject, json.loads(back.details)["rolled_back"]) == ("hippocampus-segmentation 1.0.0", True)
    assert (forth.subject, json.loads(forth.details)["number"]) == ("hippocampus-segmentation 1.0.1", 2)


def test_a_refused_version_is_not_promoted_without_signatures(root: Path) -> None:
    refused = overread("promote", PROTOCOL, 3, root=root)
    assert refused.exit_code == 1
    assert "did not pass its gate: mean Dice 0.600 < 0.700. The champion was not moved." in words_of(refused)
    assert registered(Site(root)).registry.champion(PROTOCOL).number == 2


def test_two_people_release_what_the_gate_refused_and_it_shows_everywhere(root: Path) -> None:
    done = overread("promote", PROTOCOL, 3, "--override", root=root, typed=signing())
    assert done.exit_code == 0, words_of(done)
    assert "mean Dice 0.600 < 0.700" in done.output
    assert "likes-long-words" not in done.output
    assert "It did not pass its gate: gate overridden by" in done.output
    listed = overread("models", PROTOCOL, root=root).output
    assert "overridden" in listed
    assert REASON in listed
    (act,) = [entry for entry in audited(root) if entry.action == "gate overridden"]
    details = json.loads(act.details)
    assert details["reason"] == REASON
    assert details["refusals"] == ["mean Dice 0.600 < 0.700"]
    assert len({act.actor, details["second"]}) == 2
    assert "eva" not in act.actor
    champion = registered(Site(root)).registry.champion(PROTOCOL)
    assert (champion.number, details["bundle"]) == (3, champion.bundle_sha256)
    assert overread("verify", PROTOCOL, root=root).exit_code == 0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (signing("eva", "eva"), "two different people; one was found"),
        (signing("eva", "rita"), "'rita' is neither engineer nor administrator"),
        (signing("eva", "nobody"), "'nobody' could not sign"),
        (
            signing().replace(PASSWORD.format("adam"), "a wrong password"),
            "'adam' could not sign: the password is wrong",
        ),
        (signing(reason="Why not."), "one of 8 was found"),
    ],
)
def test_an_override_that_is_not_two_peoples_moves_nothing(typed: str, words: str, root: Path) -> None:
    refused = overread("promote", PROTOCOL, 3, "--override", root=root, typed=typed)
    assert refused.exit_code == 1
    assert words in words_of(refused)
    assert registered(Site(root)).registry.champion(PROTOCOL).number == 2
    assert not [entry for entry in audited(root) if entry.action == "gate overridden"]


def test_an_override_against_a_champion_of_yesterday_is_refused_before_anybody_signs(root: Path) -> None:
    overread("rollback", PROTOCOL, root=root)
    refused = overread("promote", PROTOCOL, 3, "--override", root=root, typed=signing())
    assert "compares with version 2, but version 1 is champion now" in words_of(refused)
    assert not [entry for entry in audited(root) if entry.action == "gate overridden"]


def test_a_whole_model_verifies_and_each_thing_wrong_is_named(root: Path) -> None:
    whole = overread("verify", PROTOCOL, root=root)
    assert whole.exit_code == 0, words_of(whole)
    assert "3 version(s), 21 files re-hashed" in whole.output
    registry = registered(Site(root)).registry
    first, second, third = registry.versions(PROTOCOL)
    kept = Path(registry._client.get_run(first.run_id).info.artifact_uri.removeprefix("file://")) / "bundle"
    (kept / WEIGHTS).write_bytes(b"other weights")
    (kept / "LICENSE").unlink()
    (kept / "more").write_bytes(b"more")
    registry.bundle_path(second).write_bytes(registry.bundle_path(first).read_bytes())
    registry._client.set_model_version_tag(third.model, "3", "gate", "passed")
    found = words_of(overread("verify", PROTOCOL, root=root))
    for words in (
        f"hippocampus-segmentation 1.0.0: {WEIGHTS} in MLflow was changed",
        "1.0.0: LICENSE is missing in MLflow",
        "1.0.0: more in MLflow is not one of its files",
        "hippocampus-segmentation 1.0.1: the bundle of hippocampus-segmentation 1.0.1 has digest",
        "1.0.2: the registry and its gate report differ on whether it passed",
        "5 thing(s) are wrong",
    ):
        assert words in found


def test_a_champion_moved_past_the_gate_is_found(root: Path) -> None:
    registry = registered(Site(root)).registry
    registry._client.set_registered_model_alias("hippocampus-segmentation", "champion", "3")
    found = overread("verify", PROTOCOL, root=root)
    assert found.exit_code == 1
    assert "it is champion although its gate refused it, and no override of that was signed" in words_of(found)


def test_a_published_model_can_be_verified_by_whoever_gets_it(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    done = overread("publish", PROTOCOL, folder, root=root)
    assert done.exit_code == 0, words_of(done)
    name = "hippocampus-segmentation-1.0.1.zip"
    assert {path.name for path in folder.iterdir()} == {
        *(name, "signing_key.pub.pem", "MODEL_CARD.md", "gate.json", "README.md")
    }
    assert "python -m monai.bundle run inference" in (folder / "README.md").read_text()
    elsewhere = make_site(tmp_path / "elsewhere").root
    key = folder / "signing_key.pub.pem"
    assert "the signature holds" in overread("verify", folder / name, "--key", key, root=elsewhere).output
    stranger = overread("verify", folder / name, root=elsewhere)
    assert stranger.exit_code == 1
    assert "signed with another key" in words_of(stranger)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_words_beside_a_published_model_verify_it_without_overread(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    overread("publish", PROTOCOL, folder, "--number", 1, root=root)
    with zipfile.ZipFile(folder / "hippocampus-segmentation-1.0.0.zip") as archive:
        archive.extractall(folder)
    commands = [line.strip() for line in (folder / "README.md").read_text().splitlines() if line.startswith("    ")]
    openssl, digests = (next(line for line in commands if line.startswith(word)) for word in ("openssl", "python -c"))
    inside = folder / "hippocampus-segmentation"

    def run(command: str) -> str:
        command = command.replace("python -c", "python3 -c")
        return subprocess.run(["bash", "-c", command], cwd=inside, capture_output=True, text=True).stdout

    assert "Signature Verified Successfully" in run(openssl)
    assert run(digests).count("ok") == 7
    (inside / "LICENSE").write_text("another")
    (inside / "manifest.json").write_text((inside / "manifest.json").read_text() + " ")
    assert "LICENSE CHANGED" in run(digests)
    assert "Verified Successfully" not in run(openssl)


def test_what_the_gate_refused_is_not_published(root: Path, tmp_path: Path) -> None:
    refused = overread("publish", PROTOCOL, tmp_path / "published", "--number", 3, root=root)
    assert "did not pass its gate, and is not published" in words_of(refused)
    assert not (tmp_path / "published").exists()


def test_what_was_overridden_is_published_with_the_act(root: Path, tmp_path: Path) -> None:
    overread("promote", PROTOCOL, 3, "--override", root=root, typed=signing())
    overread("publish", PROTOCOL, tmp_path / "published", root=root)
    assert json.loads((tmp_path / "published" / "override.json").read_text())["reason"] == REASON
    assert "It did not pass its gate: gate overridden by" in (tmp_path / "published" / "README.md").read_text()


def test_a_model_is_not_published_over_something_else(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    refused = overread("publish", PROTOCOL, tmp_path / "mine", root=root)
    assert "is not empty" in words_of(refused)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", [b"no key", b""])
def test_what_is_no_key_verifies_nothing(content: bytes, root: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    refused = overread("verify", tmp_path / "b.zip", "--key", tmp_path / "key.pem", root=root)
    assert "is no public key in PEM. Nothing was verified" in words_of(refused)


def test_a_change_control_plan_is_checked_in_words(tmp_path: Path) -> None:
    path = tmp_path / "hippocampus.yaml"
    runner = CliRunner()
    assert runner.invoke(app, ["change-control", "example", str(path)]).exit_code == 0
    checked = " ".join(runner.invoke(app, ["change-control", "check", str(path)]).output.split())
    assert "is version 1 for segmentation under hippocampus" in checked
    assert "UNet or DynUNet or SegResNet" in checked
    assert "dice_mean at least 0.75" in checked
    assert "dice_mean at most 0.03 worse in each subgroup of 20 or more cases" in checked
    assert "at most 0 more missed than by the champion" in checked
    assert json.loads(runner.invoke(app, ["change-control", "schema"]).output)["title"] == "ChangePlan"
    again = runner.invoke(app, ["change-control", "example", str(path)])
    assert "is there already. Nothing was written" in words_of(again)
