"""A version for whoever runs it elsewhere: its verified bundle in; a folder with all that is needed to trust it out."""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from labeling_protocols.blobs import write_durably
from training.bundle import MANIFEST, SIGNATURE
from training.card_text import RUN
from training.model_versions import ModelVersion
from training.registry import GATE_REPORT, OVERRIDE, Registry
from training.release import ReleaseError, require

PUBLIC_KEY = "signing_key.pub.pem"
CARD, WORDS = "MODEL_CARD.md", "README.md"


def publish(registry: Registry, version: ModelVersion, folder: Path) -> list[Path]:
    """Copy a released version out into a new or empty folder; returns its files, the bundle first.

    Raises `ReleaseError` for a version that neither passed its gate nor was released by a signed override, and
    `BundleError` where its bundle does not verify; nothing is written then.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ReleaseError(f"{folder} is not empty; a model is published into a new or empty one. Nothing was written.")
    report, override = registry.gate_report(version), registry.override(version)
    if override is not None:
        require(override, report, version.number, registry.public_key)
    elif not report.decision.passed:
        raise ReleaseError(f"{version.name} did not pass its gate, and is not published. Nothing was written.")
    bundle = registry.bundle(version)
    name = f"{version.model}-{version.version}.zip"
    files = {
        name: registry.bundle_path(version).read_bytes(),
        PUBLIC_KEY: public_pem(registry.public_key),
        CARD: bundle.read("docs/README.md"),
        GATE_REPORT: report.as_json().encode(),
        WORDS: _words(version, name).encode(),
        **({OVERRIDE: override.as_json().encode()} if override is not None else {}),
    }
    if hashlib.sha256(files[name]).hexdigest() != version.bundle_sha256:
        raise ReleaseError(f"the bundle of {version.name} changed while it was read. Nothing was written.")
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        write_durably(folder / file, content)
    return [folder / file for file in files]


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _words(version: ModelVersion, name: str) -> str:
    """How to verify the bundle with and without Overread, and how to run it."""
    overridden = f"\n**It did not pass its gate: {version.override}.**\n" if version.override else ""
    return f"""# {version.name}
{overridden}
`{name}`, SHA-256 `{version.bundle_sha256}`, is a signed MONAI bundle; `{CARD}` says what it is for and how good it is,
`{GATE_REPORT}` what it was held against.

## Verify it first

A bundle is code: run it only if its signature holds. Get `{PUBLIC_KEY}` or its fingerprint another way than this folder.

    overread verify {name} --key {PUBLIC_KEY}

or, without Overread:

    unzip {name}
    cd {version.model}
    openssl pkeyutl -verify -pubin -inkey ../{PUBLIC_KEY} -rawin -in {MANIFEST} -sigfile {SIGNATURE}
    python -c "import hashlib, json, pathlib; [print(n, 'ok' if hashlib.sha256(pathlib.Path(n).read_bytes()).hexdigest() == d else 'CHANGED') for n, d in json.load(open('{MANIFEST}')).items()]"

The first says "Signature Verified Successfully", the second "ok" for every file.

## Run it

In that folder, with MONAI (`pip install "monai[fire,ignite,nibabel]"`); `IN` is a folder of volumes, `OUT` takes the answers:

    {RUN}
"""  # noqa: E501  commands to copy
