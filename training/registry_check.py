"""Whether what a site says of its models holds: a registered model in; what is wrong with any of its versions out."""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.bundle import MANIFEST, SIGNATURE, Bundle, BundleError
from training.model_versions import ModelVersion
from training.quiet_mlflow import MlflowException
from training.registry import CHAMPION, Registry
from training.release import ReleaseError, require


@dataclass(frozen=True, kw_only=True)
class Check:
    """`findings` are empty where everything holds."""

    versions: int
    files: int
    findings: tuple[str, ...]


def check(registry: Registry, protocol: str, task: str = "segmentation") -> Check:
    """Re-hash every version's bundle and its copy in MLflow, and hold both against the registry and the gate report."""
    findings: list[str] = []
    versions, files = registry.versions(protocol, task), 0
    for version in versions:
        found = list(_gate(registry, version))
        try:
            bundle = registry.bundle(version)
        except BundleError as error:
            found.append(str(error))
        else:
            found += [*_agreement(version, bundle), *_artifacts(registry, version, bundle)]
            files += len(bundle.digests)
        findings += [f"{version.name}: {words}" for words in found]
    return Check(versions=len(versions), files=files, findings=tuple(findings))


def _agreement(version: ModelVersion, bundle: Bundle) -> Iterator[str]:
    """What the bundle says of itself and the registry of it."""
    origin = bundle.metadata.get("overread", {})
    for what, registered, own in (
        ("model", version.model, bundle.metadata.get("name")),
        ("version", version.version, bundle.metadata.get("version")),
        ("protocol", version.protocol, origin.get("protocol")),
        ("snapshot", version.snapshot, origin.get("snapshot", version.snapshot)),
        ("run", version.run_id, origin.get("run_id", version.run_id)),
    ):
        if registered != own:
            yield f"its bundle says {what} {own}, the registry {registered}"


def _gate(registry: Registry, version: ModelVersion) -> Iterator[str]:
    """Whether the gate's report is the registered one, and a version that it refused is in use by a signed act only."""
    try:
        report = registry.gate_report(version)
        override = registry.override(version)
        if report.bundle_sha256 != version.bundle_sha256:
            yield "its gate report is about another bundle"
        if report.decision.passed != version.gate_passed:
            yield "the registry and its gate report differ on whether it passed"
        if override is not None:
            require(override, report, version.number, registry.public_key)
        elif CHAMPION in version.aliases and not report.decision.passed:
            yield "it is champion although its gate refused it, and no override of that was signed"
    except (ReleaseError, ValueError, KeyError, OSError, MlflowException) as error:
        yield f"its gate report or override cannot be relied on: {error}"


def _artifacts(registry: Registry, version: ModelVersion, bundle: Bundle) -> Iterator[str]:
    """Whether MLflow's copy has the bundle's files, byte for byte, and no others."""
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = registry.artifacts(version, Path(temporary))
            kept = {str(path.relative_to(folder)): _sha256(path) for path in folder.rglob("*") if path.is_file()}
    except (OSError, MlflowException) as error:
        yield f"MLflow does not have its files: {error}"
        return
    expected = dict(bundle.digests)
    for name in (MANIFEST, SIGNATURE):  # which the manifest does not list
        expected[name] = _sha256(bundle.folder / name)
    for name in sorted(kept.keys() | expected.keys()):
        if name not in kept:
            yield f"{name} is missing in MLflow"
        elif name not in expected:
            yield f"{name} in MLflow is not one of its files"
        elif kept[name] != expected[name]:
            yield f"{name} in MLflow was changed"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
