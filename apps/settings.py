"""A site: the folder that holds everything of one installation; its `config.toml` in, a frozen `Site` out."""

import os
import secrets
import tomllib
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from labeling_protocols.blobs import Blobs, write_durably

_STRICT = ConfigDict(extra="forbid")
_Port = Annotated[int, Field(ge=1, le=65535)]
_AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\s]([^\\]*[^\\\s])?$")]

CONFIG = """\
# Settings of this site; `overread serve` reads them at its start. Ports and hosts can be given on its command line too.

[web]  # annotation, review pages and OHIF
host = "127.0.0.1"
port = 8000

[mlflow]
host = "127.0.0.1"
port = 5000

[dicom]  # the inference endpoint
ae_title = "OVERREAD"
host = "127.0.0.1"
port = 11112
protocol = "hippocampus"  # whose champion reads the series that arrive
quiet_seconds = 5.0       # a series is complete when no slice came for this long

# Where results go, by C-STORE; repeat the table for each destination.
# [[dicom.destinations]]
# ae_title = "PACS"
# host = "127.0.0.1"
# port = 4242

[training]
device = "auto"  # auto, cpu or cuda
"""


class SiteError(RuntimeError):
    """A folder that is not a usable site: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Web:
    host: str = "127.0.0.1"
    port: _Port = 8000


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MLflow:
    host: str = "127.0.0.1"
    port: _Port = 5000


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Destination:
    """A DICOM peer that takes results by C-STORE."""

    ae_title: _AETitle
    host: str
    port: _Port


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Dicom:
    ae_title: _AETitle = "OVERREAD"
    host: str = "127.0.0.1"
    port: _Port = 11112
    protocol: str = "hippocampus"
    quiet_seconds: Annotated[float, Field(gt=0)] = 5.0
    destinations: tuple[Destination, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Training:
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    max_epochs: Annotated[int, Field(ge=1)] | None = None  # None: what the plan says


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config:
    web: Web = Web()
    mlflow: MLflow = MLflow()
    dicom: Dicom = Dicom()
    training: Training = Training()


class Site:
    """Paths, settings and keys of one installation."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        path = self.root / "config.toml"
        if not path.is_file():
            raise SiteError(
                f"{root} is not an Overread site: it has no config.toml. Make one with `overread init {root}`."
            )
        self.config = _read_config(path)

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.root / 'overread.db'}"

    @property
    def jobs_url(self) -> str:
        return f"sqlite:///{self.root / 'jobs.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's own database; the MLflow server shows the same one."""
        return f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    @property
    def blobs(self) -> Blobs:
        return Blobs(self.root / "blobs")

    def folder(self, name: str) -> Path:
        """A folder of the site, made where it is missing: protocols, bundles, training, inbox, results, archive."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def secret(self) -> bytes:
        """32 bytes that key pseudonyms, UIDs and the patient split; losing them loses the site's consistency."""
        return bytes.fromhex((self.root / "keys" / "site.key").read_text().strip())

    @property
    def signing_key(self) -> Ed25519PrivateKey:
        key = serialization.load_pem_private_key((self.root / "keys" / "signing.pem").read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise SiteError(f"keys/signing.pem of {self.root} is not an Ed25519 key")
        return key

    @property
    def public_key(self) -> Ed25519PublicKey:
        return self.signing_key.public_key()


def make_site(root: Path) -> Site:
    """A new site with settings, folders and keys; refuses a folder that already holds something."""
    if root.exists() and any(root.iterdir()):
        raise SiteError(f"{root} is not empty; a site is made in a new or an empty folder. Nothing was changed.")
    keys = root / "keys"
    keys.mkdir(parents=True)
    keys.chmod(0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_secret(keys / "signing.pem", pem)
    _write_secret(keys / "site.key", secrets.token_hex(32).encode())
    (root / "mlflow").mkdir()
    write_durably(root / "config.toml", CONFIG.encode())
    return Site(root)


def _write_secret(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def _read_config(path: Path) -> Config:
    try:
        return TypeAdapter(Config).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, found {e['input']!r}" for e in error.errors())
        raise SiteError(f"{path}: {reasons}") from error
