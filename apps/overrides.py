"""Releasing what the gate refused: two people's names and passwords and a reason in, a signed and audited act out."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.accounts import Accounts
from labeling_protocols import audit
from labeling_protocols.audit import Action
from labeling_protocols.records import Account, Role
from labeling_protocols.store import Store, now
from training.model_versions import ModelVersion
from training.registry import Registry
from training.release import Override, ReleaseError, sign_override

MAY_OVERRIDE = frozenset({Role.ENGINEER, Role.ADMINISTRATOR})
_THROUGH = "override"


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A name, and the password that was typed for this act."""

    name: str
    password: str


def override(
    store: Store,
    accounts: Accounts,
    registry: Registry,
    version: ModelVersion,
    signers: Sequence[Signer],
    reason: str,
    *,
    signing_key: Ed25519PrivateKey,
) -> ModelVersion:
    """Make a version that its gate refused the champion; raises `ReleaseError`, having moved nothing.

    Both people are engineers or administrators and not the same. The act stands in the audit before the champion moves.
    """
    gate_report = registry.gate_report(version)
    registry.require_current(version.protocol, gate_report)
    first, second = (_signed_in(accounts, signer) for signer in _two(signers))
    act = sign_override(
        gate_report,
        number=version.number,
        version=version.version,
        signers=(first.id, second.id),
        reason=reason,
        at=now(),
        signing_key=signing_key,
    )
    _write_down(store, version, act)
    return registry.promote(version.protocol, version.number, gate_report, act)


def _two(signers: Sequence[Signer]) -> tuple[Signer, Signer]:
    if len(signers) != 2:
        raise ReleaseError(f"an override takes two people; {len(signers)} were found. Nothing was signed.")
    return signers[0], signers[1]


def _signed_in(accounts: Accounts, signer: Signer) -> Account:
    """The account, its password just typed; a wrong one counts towards a lock-out as at the sign-in."""
    account = accounts.sign_in(signer.name, signer.password, through=_THROUGH)
    if account is None:
        raise ReleaseError(
            f"{signer.name!r} could not sign: the password is wrong, the account is locked or disabled, or it signs in"
            " at an identity provider and has no password here. Nothing was signed."
        )
    if not account.roles & MAY_OVERRIDE:
        raise ReleaseError(
            f"{signer.name!r} is neither engineer nor administrator, who alone may override a gate. Nothing was signed."
        )
    return account


def _write_down(store: Store, version: ModelVersion, act: Override) -> None:
    with store.writing() as connection:
        audit.append(
            connection,
            actor=act.signers[0],
            action=Action.GATE_OVERRIDDEN,
            subject=version.name,
            second=act.signers[1],
            number=act.number,
            bundle=act.bundle_sha256,
            gate_report=act.gate_report,
            refusals=act.refusals,
            reason=act.reason,
            signature=act.signature,
        )
