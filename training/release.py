"""An override of the gate: two people's words in, a signed act out; a signed act in, whether it holds, out.

What the gate refused is released only so. An act is about one bundle and one gate report, by their digests, and stays
beside the version for good.
"""

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from training.gate_report import GateReport

REASON_MIN_CHARACTERS, REASON_MAX_CHARACTERS = 20, 2000


class ReleaseError(RuntimeError):
    """A version that may not become champion; the champion stays who it was."""


@dataclass(frozen=True, kw_only=True)
class Override:
    """Two people's decision to release what the gate refused.

    `signers` are account ids, `gate_report` is the digest of the report they overrule, `champion` the version that is
    replaced. `signature` is the site's Ed25519 signature (hex) over the canonical JSON of all the other fields.
    """

    protocol: str
    task: str
    number: int
    version: str
    bundle_sha256: str
    gate_report: str
    refusals: tuple[str, ...]
    champion: int | None
    signers: tuple[str, str]
    reason: str
    at: str
    signature: str

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Override":
        """Raises `ValueError` where the text is no such act; whether it holds is `require`'s to say."""
        stored = json.loads(text)
        if not isinstance(stored, dict) or set(stored) != {field.name for field in fields(cls)}:
            raise ValueError("this is no override of a gate")
        first, second = stored["signers"]
        return cls(**{**stored, "signers": (first, second), "refusals": tuple(stored["refusals"])})

    def __str__(self) -> str:
        """As lists of models and MLflow show it."""
        return f"gate overridden by {' and '.join(self.signers)} on {self.at[:10]}: {self.reason}"


def sign_override(
    gate_report: GateReport,
    *,
    number: int,
    version: str,
    signers: tuple[str, str],
    reason: str,
    at: datetime,
    signing_key: Ed25519PrivateKey,
) -> Override:
    """The signed act of two people over the model of a refused gate report; raises `ReleaseError`."""
    words = reason.strip()
    if gate_report.decision.passed:
        raise ReleaseError("this version passed its gate; promote it without an override. Nothing was signed.")
    if signers[0] == signers[1] or not all(signers):
        raise ReleaseError("an override takes two different people; one was found. Nothing was signed.")
    if not REASON_MIN_CHARACTERS <= len(words) <= REASON_MAX_CHARACTERS:
        raise ReleaseError(
            f"an override takes a reason of {REASON_MIN_CHARACTERS} to {REASON_MAX_CHARACTERS} characters; one of"
            f" {len(words)} was found. Nothing was signed."
        )
    act = Override(
        protocol=gate_report.protocol,
        task=gate_report.task,
        number=number,
        version=version,
        bundle_sha256=gate_report.bundle_sha256,
        gate_report=gate_report.digest,
        refusals=gate_report.decision.reasons,
        champion=gate_report.champion,
        signers=signers,
        reason=words,
        at=at.isoformat(),
        signature="",
    )
    return Override(**{**vars(act), "signature": signing_key.sign(_signed_text(act)).hex()})


def require(override: Override, gate_report: GateReport, number: int, public_key: Ed25519PublicKey) -> None:
    """Raise `ReleaseError` unless this act was signed by this site, by two people, about this report's bundle."""
    about = (override.protocol, override.task, override.number, override.bundle_sha256, override.gate_report)
    asked = (gate_report.protocol, gate_report.task, number, gate_report.bundle_sha256, gate_report.digest)
    if about != asked:
        raise ReleaseError("the override is about another version or gate report. The champion was not moved.")
    try:
        public_key.verify(bytes.fromhex(override.signature), _signed_text(override))
    except (InvalidSignature, ValueError) as error:
        raise ReleaseError(
            "the override's signature does not hold: it was changed, or signed with another key. The champion was not"
            " moved."
        ) from error
    if override.signers[0] == override.signers[1]:
        raise ReleaseError("the override is of one person, expected two. The champion was not moved.")


def _signed_text(override: Override) -> bytes:
    signed = {name: value for name, value in asdict(override).items() if name != "signature"}
    return json.dumps(signed, sort_keys=True).encode()
