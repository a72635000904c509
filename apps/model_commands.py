"""`overread models`, `promote`, `rollback`, `verify` and `publish`: a model of the site in; shown, moved or checked."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.markup import escape
from rich.table import Table

from apps.accounts import Accounts
from apps.console import COMMAND_LINE, HERE, SiteOption, console, lines, opened_store
from apps.settings import Site
from labeling_protocols import audit
from labeling_protocols.audit import Action
from labeling_protocols.store import Store
from training.release_stage import Stage

if TYPE_CHECKING:
    from training.model_versions import ModelVersion
    from training.registry import Registry

# MLflow is imported by the commands that need it, so that the others answer at once.

ProtocolArgument = Annotated[str, typer.Argument(help="Name of the protocol.")]
TaskOption = Annotated[str, typer.Option("--task", help="segmentation, interactive, detection or classification.")]
StageOption = Annotated[Stage, typer.Option("--stage", help="How far it is released.")]
_SEGMENTATION = "segmentation"
_SHOWN = 40


def models(protocol: ProtocolArgument, task: TaskOption = _SEGMENTATION, site: SiteOption = HERE) -> None:
    """List the protocol's model versions, newest first, with their gate and aliases."""
    table = Table("Number", "Model version", "Gate", "Aliases", "Snapshot", "MLflow run", "Bundle")
    versions = _registry(Site(site)).versions(protocol, task)
    for version in reversed(versions):
        table.add_row(
            str(version.number),
            version.name,
            _gate(version),
            ", ".join(sorted(version.aliases)),
            version.snapshot[:12],
            version.run_id[:12],
            version.bundle_sha256[:12],
        )
    console.print(table)
    for version in versions:
        if version.override:
            lines.print(f"{version.name}: {version.override}", markup=False)


def promote(
    protocol: ProtocolArgument,
    number: Annotated[int, typer.Argument(help="The version's number, as `overread models` lists it.")],
    overridden: Annotated[
        bool, typer.Option("--override", help="Though its gate refused it: asks two people to sign, with a reason.")
    ] = False,
    stage: StageOption = Stage.LIVE,
    share: Annotated[float, typer.Option(help="Of the studies, that a canary reads instead of the champion.")] = 0.1,
    task: TaskOption = _SEGMENTATION,
    site: SiteOption = HERE,
) -> None:
    """Make a version the champion, by its gate's report; or try it beside the champion, as a canary or a shadow."""
    if stage != Stage.LIVE:
        _try(site, protocol, number, stage, share, task)
        return
    with _opened(site) as (opened, store, registry):
        version = registry.version(protocol, number, task)
        if overridden:
            champion = _override(opened, store, registry, version)
        else:
            champion = registry.promote(protocol, number, registry.gate_report(version))
        _released(store, champion, overridden=overridden)
        job = _scoring(opened, store, protocol, task)
    lines.print(f"Champion is now {champion.name}.")
    if job:
        lines.print(f"Job {job} has it look at the cases that wait for readers.")
    if champion.override:
        lines.print(f"It did not pass its gate: {champion.override}.", markup=False)


def rollback(
    protocol: ProtocolArgument,
    stage: StageOption = Stage.LIVE,
    task: TaskOption = _SEGMENTATION,
    site: SiteOption = HERE,
) -> None:
    """Make the champion before the present one champion again; or end the trial of the canary or the shadow."""
    if stage != Stage.LIVE:
        _end_trial(site, protocol, stage, task)
        return
    with _opened(site) as (opened, store, registry):
        champion = registry.rollback(protocol, task)
        _released(store, champion, rolled_back=True)
        job = _scoring(opened, store, protocol, task)
    lines.print(f"Champion is now {champion.name}.")
    if job:
        lines.print(f"Job {job} has it look at the cases that wait for readers.")


def verify(
    what: Annotated[str, typer.Argument(help="A bundle's file, or the name of a protocol.")],
    key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) that must have signed the file; the site's without it.")
    ] = None,
    task: TaskOption = _SEGMENTATION,
    site: SiteOption = HERE,
) -> None:
    """Verify a bundle, or all versions of a model: signatures, digests, MLflow's copies. Code 1 where one fails."""
    if Path(what).suffix == ".zip" or Path(what).is_file():
        _verify_file(Path(what), key, site)
        return
    from training.registry_check import check

    with opened_store(site) as (opened, store):
        store.protocol(what)
        found = check(_registry(opened), what, task)
    for words in found.findings[:_SHOWN]:
        lines.print(f"[red]wrong:[/] {escape(words)}")
    lines.print(f"{found.versions} version(s), {found.files} files re-hashed in their bundles and in MLflow.")
    if found.findings:
        lines.print(f"{len(found.findings)} thing(s) are wrong.")
        raise typer.Exit(1)
    lines.print("Everything is whole.")


def publish(
    protocol: ProtocolArgument,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    number: Annotated[int | None, typer.Option(help="Which version; the champion without it.")] = None,
    task: TaskOption = _SEGMENTATION,
    site: SiteOption = HERE,
) -> None:
    """Copy a released model out: its verified bundle, public key and card, and how to verify and run it elsewhere."""
    from training.publishing import publish as copy_out

    registry = _registry(Site(site))
    chosen = registry.champion(protocol, task) if number is None else registry.version(protocol, number, task)
    bundle, *others = copy_out(registry, chosen, folder)
    lines.print(f"Published {chosen.name} as {bundle}, with {', '.join(path.name for path in others)}.")
    lines.print("README.md says how to verify and run it; tell its reader the key's fingerprint another way:")
    lines.print(f"  SHA-256 of {others[0].name}: {_sha256(others[0])}")


def _try(site: Path, protocol: str, number: int, stage: Stage, share: float, task: str) -> None:
    from training.release_stages import begin

    with _opened(site) as (_, store, registry):
        tried = begin(registry, protocol, number, stage, share, task)
        told = {"share": share} if stage is Stage.CANARY else {}
        _released(store, tried, Action.MODEL_TRIED, stage=stage.value, **told)
    of = (
        f"reads {share:.0%} of the studies, and its results are sent"
        if told
        else "reads every study, and nothing is sent"
    )
    lines.print(f"{tried.name} is {stage} now: it {of}.")


def _end_trial(site: Path, protocol: str, stage: Stage, task: str) -> None:
    from training.release_stages import end

    with _opened(site) as (_, store, registry):
        ended = end(registry, protocol, stage, task)
        _released(store, ended, Action.MODEL_TRIED, stage=stage.value, ended=True)
    lines.print(f"{ended.name} is {stage} no more.")


def _gate(version: "ModelVersion") -> str:
    if version.override:
        return "[bold yellow]overridden[/]"
    return "[green]passed[/]" if version.gate_passed else "[red]failed[/]"


def _override(site: Site, store: Store, registry: "Registry", version: "ModelVersion") -> "ModelVersion":
    from apps.overrides import Signer, override

    report = registry.gate_report(version)
    lines.print(f"The gate refused {version.name}:")
    for reason in report.decision.reasons:
        lines.print(f"  {reason}", markup=False)
    lines.print("Two engineers or administrators sign for its release, each with the own password.")
    reason = typer.prompt("Reason")
    signers = []
    for who in ("First", "Second"):
        name = typer.prompt(f"{who} name")
        signers.append(Signer(name=name, password=typer.prompt("Password", hide_input=True)))
    accounts = Accounts(store, site)
    return override(store, accounts, registry, version, signers, reason, signing_key=site.signing_key)


def _scoring(site: Site, store: Store, protocol: str, task: str) -> str | None:
    """The job that puts the waiting cases in the order of the new champion; None where nothing is to be done."""
    from apps.acquisition_start import champion_moved

    return champion_moved(site, store, protocol) if task == _SEGMENTATION else None


def _released(
    store: Store, champion: "ModelVersion", action: Action = Action.MODEL_RELEASED, **how: bool | str | float
) -> None:
    with store.writing() as connection:
        audit.append(
            connection,
            actor=COMMAND_LINE,
            action=action,
            subject=champion.name,
            number=champion.number,
            bundle=champion.bundle_sha256,
            **how,
        )


def _verify_file(path: Path, key: Path | None, site: Path) -> None:
    from training.bundle import verify_bundle

    public_key = _public_key(key) if key is not None else Site(site).public_key
    bundle = verify_bundle(path, public_key)
    lines.print(f"{bundle.metadata['name']} {bundle.metadata['version']}: the signature holds.", markup=False)
    lines.print(f"{len(bundle.digests)} files, none changed. SHA-256 of the bundle: {bundle.sha256}")


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no public key in PEM. Nothing was verified.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} is not an Ed25519 key, which bundles are signed with. Nothing was verified.")
    return key


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _registry(site: Site) -> "Registry":
    from apps.training_site import registry_of

    return registry_of(site)


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[Site, Store, "Registry"]]:
    with opened_store(folder) as (site, store):
        yield site, store, _registry(site)
