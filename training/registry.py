"""Model versions of a site: registered with MLflow, kept as signed bundles, released by moving the alias `champion`.

A version is reserved before its bundle is made, because the bundle names its version; it shows up once it has it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from training.bundle import Bundle, BundleError, open_bundle
from training.gate import GateReport
from training.model_card import model_name
from training.quiet_mlflow import MlflowClient, MlflowException
from training.tracking import RunLog, open_client

CANDIDATE = "candidate"
CHAMPION = "champion"
GATE_REPORT = "gate.json"  # artifact of the run
BUNDLE_FOLDER = "bundle"
_HISTORY_TAG = "champions"  # of the registered model: the numbers that were champion, oldest first


class NoChampionError(LookupError):
    """A protocol whose models have not passed the gate yet."""


class ReleaseError(RuntimeError):
    """A version that may not become champion; the champion stays who it was."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """`number` is MLflow's, `version` the bundle's semantic one."""

    protocol: str
    number: int
    version: str
    run_id: str
    snapshot: str
    bundle_sha256: str
    gate_passed: bool
    aliases: frozenset[str]

    @property
    def name(self) -> str:
        """As results and prelabels carry it: 'hippocampus-segmentation 1.0.3'."""
        return f"{model_name(self.protocol)} {self.version}"


class Registry:
    """The registered models of a site. `bundles` is the folder of its bundles, which `public_key` must have signed."""

    def __init__(self, tracking_uri: str, bundles: Path, public_key: Ed25519PublicKey) -> None:
        self._client: MlflowClient = open_client(tracking_uri)
        self._bundles = bundles
        self._public_key = public_key

    def versions(self, protocol: str) -> list[ModelVersion]:
        """Every version that has its bundle, oldest first."""
        aliases = self._aliases(protocol)
        found = [_model_version(protocol, version, aliases) for version in self._stored(protocol) if _complete(version)]
        return sorted(found, key=lambda version: version.number)

    def champion(self, protocol: str) -> ModelVersion:
        """The version in use; raises `NoChampionError` before there is one."""
        for version in self.versions(protocol):
            if CHAMPION in version.aliases:
                return version
        raise NoChampionError(
            f"no model of protocol {protocol} has passed the gate yet, so there is none to predict with;"
            " train one once enough cases are settled"
        )

    def champion_or_none(self, protocol: str) -> ModelVersion | None:
        try:
            return self.champion(protocol)
        except NoChampionError:
            return None

    def bundle(self, version: ModelVersion) -> Bundle:
        """The version's bundle, re-hashed and verified; raises `BundleError`."""
        bundle = open_bundle(self._bundles / f"{version.bundle_sha256}.zip", self._public_key)
        if bundle.sha256 != version.bundle_sha256:
            raise BundleError(
                f"the bundle of {version.name} has digest {bundle.sha256[:12]}…,"
                f" {version.bundle_sha256[:12]}… was registered. Nothing was loaded."
            )
        return bundle

    def reserve(self, protocol: str, run_id: str) -> int:
        """The number of this run's version; the same one when asked again."""
        name = model_name(protocol)
        if self._registered(protocol) is None:
            self._client.create_registered_model(name)
        for version in self._stored(protocol):
            if version.run_id == run_id:
                return int(version.version)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{BUNDLE_FOLDER}"
        return int(self._client.create_model_version(name, source, run_id=run_id).version)

    def register(self, protocol: str, number: int, version: str, gate_report: GateReport) -> ModelVersion:
        """Give a reserved version its bundle and its gate's outcome, and make it the candidate."""
        name = model_name(protocol)
        tags = {
            "version": version,
            "snapshot": gate_report.snapshot,
            "gate": "passed" if gate_report.decision.passed else "refused",
            "bundle_sha256": gate_report.bundle_sha256,  # last: with it the version is complete
        }
        for key, value in tags.items():
            self._client.set_model_version_tag(name, str(number), key, value)
        self._client.set_registered_model_alias(name, CANDIDATE, str(number))
        return self._version(protocol, number)

    def promote(self, protocol: str, number: int, gate_report: GateReport) -> ModelVersion:
        """Make a version the champion on the word of its gate report; raises `ReleaseError`.

        The report must have passed, be about this version's bundle, and compare with the champion of this moment.
        """
        current = self.champion_or_none(protocol)
        if current is not None and current.number == number:
            return current
        standing = current.number if current else None
        if gate_report.champion != standing:
            raise ReleaseError(
                f"the gate report compares with {_spoken(gate_report.champion)}, but {_spoken(standing)}"
                " is champion now; evaluate again. The champion was not moved."
            )
        promoted = self._move_champion(protocol, number, gate_report, [*self._history(protocol, current), number])
        if CANDIDATE in promoted.aliases:
            self._client.delete_registered_model_alias(model_name(protocol), CANDIDATE)
        return self._version(protocol, number)

    def rollback(self, protocol: str) -> ModelVersion:
        """Make the previous champion the champion again, its own gate report and bundle checked once more."""
        current = self.champion(protocol)
        history = self._history(protocol, current)[:-1]
        if not history:
            raise ReleaseError(f"{current.name} has no predecessor to go back to. The champion was not moved.")
        previous = self._version(protocol, history[-1])
        report = RunLog(client=self._client, id=previous.run_id).read_text(GATE_REPORT)
        return self._move_champion(protocol, previous.number, GateReport.from_json(report), history)

    def _move_champion(self, protocol: str, number: int, gate_report: GateReport, history: list[int]) -> ModelVersion:
        """The only place that sets the alias: a passed gate report about exactly this version's bundle, or nothing."""
        version = self._version(protocol, number)
        if gate_report.protocol != protocol or gate_report.bundle_sha256 != version.bundle_sha256:
            raise ReleaseError(
                f"the gate report is about another bundle than that of {version.name}. The champion was not moved."
            )
        if not gate_report.decision.passed or gate_report.decision.reasons:
            reasons = "; ".join(gate_report.decision.reasons) or "no reason given"
            raise ReleaseError(f"{version.name} did not pass its gate: {reasons}. The champion was not moved.")
        self.bundle(version)
        name = model_name(protocol)
        self._client.set_registered_model_alias(name, CHAMPION, str(number))
        self._client.set_registered_model_tag(name, _HISTORY_TAG, json.dumps(history))
        return self._version(protocol, number)

    def _version(self, protocol: str, number: int) -> ModelVersion:
        for version in self.versions(protocol):
            if version.number == number:
                return version
        raise ReleaseError(f"{model_name(protocol)} has no version number {number}. The champion was not moved.")

    def _registered(self, protocol: str) -> Any:
        try:
            return self._client.get_registered_model(model_name(protocol))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _stored(self, protocol: str) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{model_name(protocol)}'"))

    def _aliases(self, protocol: str) -> dict[int, set[str]]:
        registered = self._registered(protocol)
        found: dict[int, set[str]] = {}
        for alias, number in (registered.aliases if registered else {}).items():
            found.setdefault(int(number), set()).add(alias)
        return found

    def _history(self, protocol: str, current: ModelVersion | None) -> list[int]:
        """The numbers that were champion, the current one last even where a crash came before it was noted."""
        history: list[int] = json.loads(self._registered(protocol).tags.get(_HISTORY_TAG, "[]"))
        if current is not None and history[-1:] != [current.number]:
            history.append(current.number)
        return history


def _complete(version: Any) -> bool:
    return "bundle_sha256" in version.tags


def _model_version(protocol: str, version: Any, aliases: dict[int, set[str]]) -> ModelVersion:
    number = int(version.version)
    return ModelVersion(
        protocol=protocol,
        number=number,
        version=version.tags["version"],
        run_id=version.run_id,
        snapshot=version.tags["snapshot"],
        bundle_sha256=version.tags["bundle_sha256"],
        gate_passed=version.tags["gate"] == "passed",
        aliases=frozenset(aliases.get(number, ())),
    )


def _spoken(number: int | None) -> str:
    return f"version {number}" if number is not None else "no version"
