"""Model versions of a site: registered with MLflow, kept as signed bundles, released by moving the alias `champion`.

A registered model is of one protocol and one task. A version is reserved before its bundle is made, because the bundle
names its version; it shows up once it has it. The aliases `canary` and `shadow` are stages beside it
(`release_stages.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from training.bundle import PLAN, Bundle, BundleError, open_bundle
from training.gate_report import GateReport
from training.model_versions import SEGMENTATION, ModelVersion, is_complete, model_version
from training.quiet_mlflow import MlflowClient, MlflowException
from training.release import Override, ReleaseError, require
from training.snapshot import Snapshot
from training.tracking import RunLog, open_client
from training.versioning import Predecessor, Version, model_name, next_version

__all__ = ["BUNDLE_FOLDER", "CHAMPION", "GATE_REPORT", "ModelVersion", "NoChampionError", "Registry", "ReleaseError"]

CANDIDATE = "candidate"
CHAMPION = "champion"
GATE_REPORT = "gate.json"  # artifacts of the run
OVERRIDE = "override.json"
BUNDLE_FOLDER = "bundle"
_STAGES = frozenset(("canary", "shadow"))
_HISTORY_TAG = "champions"  # of the registered model: the numbers that were champion, oldest first


class NoChampionError(LookupError):
    """A protocol whose models have not passed the gate yet."""


class Registry:
    """The registered models of a site. `bundles` is the folder of its bundles, which `public_key` must have signed."""

    def __init__(self, tracking_uri: str, bundles: Path, public_key: Ed25519PublicKey) -> None:
        self._client: MlflowClient = open_client(tracking_uri)
        self._bundles = bundles
        self.public_key = public_key

    # What there is

    def versions(self, protocol: str, task: str = SEGMENTATION) -> list[ModelVersion]:
        """Every version that has its bundle, oldest first."""
        model = model_name(protocol, task)
        aliases = self._aliases(model)
        return [
            model_version(protocol, task, version, aliases) for version in self._stored(model) if is_complete(version)
        ]

    def version(self, protocol: str, number: int, task: str = SEGMENTATION) -> ModelVersion:
        """The version of this number; raises `ReleaseError` where there is none."""
        for version in self.versions(protocol, task):
            if version.number == number:
                return version
        raise ReleaseError(f"{model_name(protocol, task)} has no version number {number}. The champion was not moved.")

    def champion(self, protocol: str, task: str = SEGMENTATION) -> ModelVersion:
        """The version in use; raises `NoChampionError` before there is one."""
        for version in self.versions(protocol, task):
            if CHAMPION in version.aliases:
                return version
        what = "model" if task == SEGMENTATION else f"{task} model"
        raise NoChampionError(
            f"no {what} of protocol {protocol} has passed the gate yet, so there is none to predict with;"
            " train one once enough cases are settled"
        )

    def champion_or_none(self, protocol: str, task: str = SEGMENTATION) -> ModelVersion | None:
        try:
            return self.champion(protocol, task)
        except NoChampionError:
            return None

    def bundle_path(self, version: ModelVersion) -> Path:
        return self._bundles / f"{version.bundle_sha256}.zip"

    def bundle(self, version: ModelVersion) -> Bundle:
        """The version's bundle, re-hashed and verified; raises `BundleError`."""
        bundle = open_bundle(self.bundle_path(version), self.public_key)
        if bundle.sha256 != version.bundle_sha256:
            raise BundleError(
                f"the bundle of {version.name} has digest {bundle.sha256[:12]}…,"
                f" {version.bundle_sha256[:12]}… was registered. Nothing was loaded."
            )
        return bundle

    def gate_report(self, version: ModelVersion) -> GateReport:
        """What the version's gate decided; raises `ReleaseError` where that was touched since."""
        report = GateReport.from_json(self._run(version).read_text(GATE_REPORT))
        if version.gate_report and report.digest != version.gate_report:
            raise ReleaseError(
                f"the gate report of {version.name} is not the one that was registered. The champion was not moved."
            )
        return report

    def override(self, version: ModelVersion) -> Override | None:
        """The signed act that released the version in spite of its gate, None where there is none."""
        return Override.from_json(self._run(version).read_text(OVERRIDE)) if version.override else None

    def artifacts(self, version: ModelVersion, folder: Path) -> Path:
        """The version's bundle as MLflow keeps it, copied into a folder."""
        return Path(self._client.download_artifacts(version.run_id, BUNDLE_FOLDER, str(folder)))

    # How a version comes to be

    def reserve(self, protocol: str, run_id: str, task: str = SEGMENTATION) -> int:
        """The number of this run's version; the same one when asked again."""
        model = model_name(protocol, task)
        if self._registered(model) is None:
            self._client.create_registered_model(model)
        for version in self._stored(model):
            if version.run_id == run_id:
                return int(version.version)
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{BUNDLE_FOLDER}"
        return int(self._client.create_model_version(model, source, run_id=run_id).version)

    def next_version(
        self, protocol: str, number: int, plan_json: str, snapshot: Snapshot, task: str = SEGMENTATION
    ) -> Version:
        """The semantic version of a reserved one, and the changelog up to it; the same when asked again."""
        model = model_name(protocol, task)
        stored = {int(version.version): version.tags for version in self._stored(model)}
        taken = {tags["version"] for other, tags in stored.items() if other != number and "version" in tags}
        before = next(self._predecessors(protocol, task, number), None)
        found = next_version(before, plan_json=plan_json, snapshot=snapshot, taken=taken)
        self._client.set_model_version_tag(model, str(number), "version", found.number)
        return found

    def register(self, protocol: str, number: int, version: str, gate_report: GateReport) -> ModelVersion:
        """Give a reserved version its bundle and its gate's outcome, and make it the candidate."""
        model = model_name(protocol, gate_report.task)
        tags = {
            "version": version,
            "snapshot": gate_report.snapshot,
            "gate": "passed" if gate_report.decision.passed else "refused",
            "gate_report": gate_report.digest,
            "bundle_sha256": gate_report.bundle_sha256,  # last: with it the version is complete
        }
        self._client.update_model_version(model, str(number), _described(gate_report))
        for key, value in tags.items():
            self._client.set_model_version_tag(model, str(number), key, value)
        self._client.set_registered_model_alias(model, CANDIDATE, str(number))
        return self.version(protocol, number, gate_report.task)

    # Which one is in use

    def promote(
        self, protocol: str, number: int, gate_report: GateReport, override: Override | None = None
    ) -> ModelVersion:
        """Make a version the champion on the word of its gate report; raises `ReleaseError`.

        The report must be about this version's bundle, compare with the champion of this moment, and have passed, or
        two people must have signed an override of it.
        """
        task = gate_report.task
        self.version(protocol, number, task)
        current = self.champion_or_none(protocol, task)
        if current is not None and current.number == number:
            promoted = current
        else:
            self.require_current(protocol, gate_report)
            history = [*self._history(model_name(protocol, task), current), number]
            promoted = self._move_champion(protocol, number, gate_report, override, history)
        for alias in promoted.aliases & {CANDIDATE, *_STAGES}:
            self._client.delete_registered_model_alias(promoted.model, alias)
        return self.version(protocol, number, task)

    def require_current(self, protocol: str, gate_report: GateReport) -> None:
        """Raise `ReleaseError` unless the report compares with the champion of this moment."""
        current = self.champion_or_none(protocol, gate_report.task)
        standing = current.number if current else None
        if gate_report.champion != standing:
            raise ReleaseError(
                f"the gate report compares with {_spoken(gate_report.champion)}, but {_spoken(standing)}"
                " is champion now; evaluate again. The champion was not moved."
            )

    def rollback(self, protocol: str, task: str = SEGMENTATION) -> ModelVersion:
        """Make the previous champion the champion again, its own gate report and bundle checked once more."""
        current = self.champion(protocol, task)
        history = self._history(current.model, current)[:-1]
        if not history:
            raise ReleaseError(f"{current.name} has no predecessor to go back to. The champion was not moved.")
        previous = self.version(protocol, history[-1], task)
        return self._move_champion(
            protocol, previous.number, self.gate_report(previous), self.override(previous), history
        )

    # Which ones are tried beside it (`release_stages.py`)

    def tag_of(self, model: str, tag: str) -> str | None:
        """A tag of the registered model; None where it has none."""
        registered = self._registered(model)
        value: str | None = registered.tags.get(tag) if registered else None
        return value

    def set_tag(self, model: str, tag: str, value: str) -> None:
        self._client.set_registered_model_tag(model, tag, value)

    def set_stage(self, version: ModelVersion, stage: str) -> None:
        if stage not in _STAGES:
            raise ReleaseError(f"{stage} is no stage beside the champion. Nothing was changed.")
        self._client.set_registered_model_alias(version.model, stage, str(version.number))

    def end_stage(self, version: ModelVersion, stage: str) -> None:
        if stage in _STAGES and stage in version.aliases:
            self._client.delete_registered_model_alias(version.model, stage)

    def _move_champion(
        self, protocol: str, number: int, gate_report: GateReport, override: Override | None, history: list[int]
    ) -> ModelVersion:
        """The only place that sets the alias: a gate report about exactly this version's bundle, which passed or was
        overridden by a signed act, or nothing."""
        version = self.version(protocol, number, gate_report.task)
        if gate_report.protocol != protocol or gate_report.bundle_sha256 != version.bundle_sha256:
            raise ReleaseError(
                f"the gate report is about another bundle than that of {version.name}. The champion was not moved."
            )
        refused = not gate_report.decision.passed or bool(gate_report.decision.reasons)
        if refused and override is None:
            reasons = "; ".join(gate_report.decision.reasons) or "no reason given"
            raise ReleaseError(f"{version.name} did not pass its gate: {reasons}. The champion was not moved.")
        if version.gate_report and gate_report.digest != version.gate_report:
            raise ReleaseError(
                f"the gate report is not the one {version.name} was registered with. The champion was not moved."
            )
        if refused and override is not None:
            require(override, gate_report, number, self.public_key)
        self.bundle(version)
        if refused and override is not None:
            self._note_override(version, gate_report, override)
        self._client.set_registered_model_alias(version.model, CHAMPION, str(number))
        self._client.set_registered_model_tag(version.model, _HISTORY_TAG, json.dumps(history))
        return self.version(protocol, number, gate_report.task)

    def _note_override(self, version: ModelVersion, gate_report: GateReport, override: Override) -> None:
        """Before the champion moves: what is released so is known to be, wherever the version is shown."""
        run = self._run(version)
        run.text(OVERRIDE, override.as_json())
        run.tag({"overread.override": str(override)})
        self._client.set_model_version_tag(version.model, str(version.number), "override", str(override))
        words = f"Released in spite of its gate: {override}.\n\n{_described(gate_report)}"
        self._client.update_model_version(version.model, str(version.number), words)

    def _predecessors(self, protocol: str, task: str, number: int) -> Iterator[Predecessor]:
        """The versions before this one whose bundles can be read, newest first."""
        for version in reversed(self.versions(protocol, task)):
            if version.number < number:
                try:
                    bundle = self.bundle(version)
                    plan = bundle.read(PLAN).decode()
                except BundleError:  # lost or touched: `overread verify` tells; the one before it is compared with
                    continue
                yield Predecessor(
                    version=version.version,
                    changelog=bundle.metadata.get("changelog", {}),
                    plan_json=plan,
                    training_cases=bundle.metadata["overread"].get("training_cases"),
                )

    def _run(self, version: ModelVersion) -> RunLog:
        return RunLog(client=self._client, id=version.run_id)

    def _registered(self, model: str) -> Any:
        try:
            return self._client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _stored(self, model: str) -> list[Any]:
        found = self._client.search_model_versions(f"name = '{model}'")
        return sorted(found, key=lambda version: int(version.version))

    def _aliases(self, model: str) -> dict[int, set[str]]:
        registered = self._registered(model)
        found: dict[int, set[str]] = {}
        for alias, number in (registered.aliases if registered else {}).items():
            found.setdefault(int(number), set()).add(alias)
        return found

    def _history(self, model: str, current: ModelVersion | None) -> list[int]:
        """The numbers that were champion, the current one last even where a crash came before it was noted."""
        history: list[int] = json.loads(self._registered(model).tags.get(_HISTORY_TAG, "[]"))
        if current is not None and history[-1:] != [current.number]:
            history.append(current.number)
        return history


def _described(gate_report: GateReport) -> str:
    """The gate's outcome, as MLflow's page of the version shows it."""
    decision = gate_report.decision
    verdict = "Passed its gate." if decision.passed else "Refused by its gate:"
    return "\n".join([verdict, *(f"- {reason}" for reason in (*decision.reasons, *decision.notes))])


def _spoken(number: int | None) -> str:
    return f"version {number}" if number is not None else "no version"
