"""A site: the folder that holds everything of one installation; its `config.toml` in, a frozen `Site` out."""

import os
import secrets
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from labeling_protocols.blobs import Blobs, make_blobs, write_durably
from labeling_protocols.engine import parse_url
from labeling_protocols.protocol_parts import AcquisitionStrategy
from labeling_protocols.records import Role

_STRICT = ConfigDict(extra="forbid")
_Port = Annotated[int, Field(ge=1, le=65535)]
_AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[^\\\s]([^\\]*[^\\\s])?$")]

CONFIG = """\
# Settings of this site; `overread serve` reads them at its start. Ports and hosts can be given on its command line too.

[web]  # annotation, review pages and OHIF
host = "127.0.0.1"
port = 8000
# upload_max_mb = 1024              # of one request
# upload_max_voxels = 500_000_000   # of an uploaded image; a label has its case's

[mlflow]
host = "127.0.0.1"
port = 5000

[dicom]  # the inference endpoint
ae_title = "OVERREAD"
host = "127.0.0.1"
port = 11112
protocol = "hippocampus"  # whose champion reads the series that arrive
quiet_seconds = 5.0       # a series is complete when no slice came for this long
# callers = ["CT1", "PACS"] # the AE titles that may call; left out, any may
# give_up_hours = 48        # of trying to deliver a result; then it waits for somebody to send it again
# associations_max = 64     # at the same time; more are turned away for the moment

# Where Storage Commitment is reported to; repeat the table for each system that asks for it.
# [[dicom.peers]]
# ae_title = "CT1"
# host = "127.0.0.1"
# port = 104

# [dicom.tls]  # a second, encrypted port
# port = 2762
# certificate = "keys/dicom.crt"  # in the site's folder
# key = "keys/dicom.key"
# ca_file = "keys/peers.pem"      # where callers must show a certificate, who signs theirs

# Where results go, by C-STORE; repeat the table for each destination.
# [[dicom.destinations]]
# ae_title = "PACS"
# host = "127.0.0.1"
# port = 4242

[training]
device = "auto"  # auto, cpu or cuda
# held_out_share = 0.2  # of the patients, never trained on, to judge models; 0: by cross-validation (--folds) alone
# processes = 1  # that train one model together: as many as this machine has GPUs

# [inference]  # of the models that viewers ask
# at_once = 1              # on a device; more wait, and see their place at /infer/queue
# waiting_max = 32         # more are turned away
# timeout_seconds = 600    # of waiting and work together
# image_memory_mb = 2048   # of decoded and prepared images and answers, which are kept for the next request

# [acquisition]  # which case comes next, where a protocol does not say it
# strategy = "hybrid"  # `overread score --strategies` lists them
# views = 4            # how often the champion looks at each case to see how sure it is

# Where reads are kept; left out, a SQLite file and a folder of this site.
# [store]
# database = "postgresql://overread@db.example.org/overread"  # the password: PGPASSWORD, ~/.pgpass or ?passfile=PATH
# blobs = "s3://bucket/overread"  # a folder, or any store fsspec knows; what it asks for comes from the environment

# Where DICOM images lie. Left out: de-identified, in this site's `archive` folder. `overread ingest --from-archive`
# also makes cases of series in a DICOMweb server and leaves their pixels there: their headers are kept here without
# identifiers, and of what the server sends readers see only pixels. It may be a clinical one; what is no case here
# stays unseen.
# [archive]
# url = "https://pacs.example.org/dicom-web"  # Orthanc's ends with /dicom-web/
# username = "overread"                       # its password: OVERREAD_ARCHIVE_PASSWORD in the environment, or
# password_file = "keys/archive.password"     # a file in the site's folder
# token_file = "keys/archive.token"           # or OVERREAD_ARCHIVE_TOKEN, for servers that take a bearer token instead
# ca_file = "keys/archive-ca.pem"             # where its certificate is not signed by an authority of this machine
# timeout_seconds = 30                        # until the server answers, and between two pieces of an answer

# [accounts]
# token_minutes = 60    # how long a token lives; viewers and browsers renew theirs
# session_hours = 12    # how long a browser stays signed in while it is used
# wrong_passwords = 5   # in a row, then the account is locked: 30 s at first, twice as long each further time

# Sign-in through the organisation's identity provider (OpenID Connect), beside local accounts.
# [oidc]
# issuer = "https://login.example.org/realms/hospital"
# client_id = "overread"
# client_secret_file = "keys/oidc.secret"  # in the site's folder; leave it out for a public client
# roles_claim = "roles"                    # where the provider says what somebody may do; a.b for b within a
# audience = "overread"                    # accept the provider's own tokens for this audience from programs
# [oidc.roles]                             # the provider's word = ours; without this table they are the same
# radiologist = "reader"
"""


class SiteError(RuntimeError):
    """A folder that is not a usable site: what was found, what was expected."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Web:
    """Where pages and viewers are served, and how large an upload may be."""

    host: str = "127.0.0.1"
    port: _Port = 8000
    upload_max_mb: Annotated[int, Field(ge=1)] = 1024
    upload_max_voxels: Annotated[int, Field(ge=1)] = 500_000_000


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
class Peer:
    """A DICOM peer that the endpoint answers on an association of its own."""

    ae_title: _AETitle
    host: str
    port: _Port


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DicomTls:
    """The endpoint's encrypted port; files are in the site's folder. Callers show a certificate where `ca_file` is."""

    certificate: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]
    port: _Port = 2762
    ca_file: str = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Dicom:
    ae_title: _AETitle = "OVERREAD"
    host: str = "127.0.0.1"
    port: _Port = 11112
    protocol: str = "hippocampus"
    quiet_seconds: Annotated[float, Field(gt=0)] = 5.0
    callers: tuple[_AETitle, ...] = ()
    associations_max: Annotated[int, Field(ge=1, le=1000)] = 64
    peers: tuple[Peer, ...] = ()
    tls: DicomTls | None = None
    give_up_hours: Annotated[float, Field(gt=0)] = 48.0
    destinations: tuple[Destination, ...] = ()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Training:
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    max_epochs: Annotated[int, Field(ge=1)] | None = None  # None: what the plan says
    held_out_share: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # of patients; 0: judged by cross-validation alone
    processes: Annotated[int, Field(ge=1)] = 1  # that train one model together on this machine


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class InferenceSettings:
    """How many inferences of viewers run and wait, and how much of their images is kept for the next."""

    at_once: Annotated[int, Field(ge=1, le=16)] = 1
    waiting_max: Annotated[int, Field(ge=0)] = 32
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    image_memory_mb: Annotated[int, Field(ge=0)] = 2048


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AcquisitionSettings:
    """How waiting cases are put in order, where their protocol does not say; `views` are the champion's of each."""

    strategy: AcquisitionStrategy = AcquisitionStrategy.HYBRID
    views: Annotated[int, Field(ge=1, le=64)] = 4


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StoreSettings:
    """The database's URL and the blobs' folder or URL; empty for those in the site's folder."""

    database: str = ""
    blobs: str = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ArchiveSettings:
    """A DICOMweb server beside the site's own archive, none where `url` is empty; files lie in the site's folder."""

    url: Annotated[str, Field(pattern=r"^(https?://[^/?#\s]+(/[^?#\s]*)?)?$")] = ""
    username: str = ""
    password_file: str = ""
    token_file: str = ""
    ca_file: str = ""
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AccountSettings:
    """How long tokens and sessions last, and what wrong passwords lead to."""

    token_minutes: Annotated[float, Field(ge=5, le=24 * 60)] = 60.0
    session_hours: Annotated[float, Field(ge=1, le=7 * 24)] = 12.0
    password_min_characters: Annotated[int, Field(ge=8, le=64)] = 8
    one_time_password_days: Annotated[float, Field(gt=0, le=90)] = 7.0
    wrong_passwords: Annotated[int, Field(ge=3, le=100)] = 5
    lock_seconds: Annotated[float, Field(gt=0)] = 30.0
    lock_max_seconds: Annotated[float, Field(gt=0)] = 3600.0
    wrong_passwords_per_computer: Annotated[int, Field(ge=10)] = 100  # within ten minutes, whichever accounts


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ProviderSettings:
    """An OpenID Connect provider; `roles` maps its words to ours, and is empty where they are the same."""

    issuer: Annotated[str, Field(pattern=r"^(https://[^/?#\s]+|http://(127\.0\.0\.1|localhost)(:\d+)?)(/[^?#\s]*)?$")]
    client_id: Annotated[str, Field(min_length=1)]
    client_secret_file: str = ""
    title: str = "Sign in with your organisation's account"
    scopes: tuple[str, ...] = ("openid", "profile")
    name_claim: str = "preferred_username"
    roles_claim: str = "roles"
    roles: dict[str, Role] = field(default_factory=dict)
    groups_claim: str = ""  # groups are given here, not there, where it is empty
    audience: str = ""  # the provider's tokens are accepted from no program where it is empty
    algorithms: tuple[Literal["RS256", "ES256", "EdDSA"], ...] = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Config:
    web: Web = Web()
    mlflow: MLflow = MLflow()
    dicom: Dicom = Dicom()
    training: Training = Training()
    inference: InferenceSettings = InferenceSettings()
    acquisition: AcquisitionSettings = AcquisitionSettings()
    store: StoreSettings = StoreSettings()
    archive: ArchiveSettings = ArchiveSettings()
    accounts: AccountSettings = AccountSettings()
    oidc: ProviderSettings | None = None


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
        return self.config.store.database or f"sqlite:///{self.root / 'overread.db'}"

    @property
    def jobs_url(self) -> str:
        return f"sqlite:///{self.root / 'jobs.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLflow's own database; the MLflow server shows the same one."""
        return f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    @property
    def blobs(self) -> Blobs:
        """A relative folder is one in the site's; files of a remote store are kept a while in `cache/`."""
        place = self.config.store.blobs or "blobs"
        return make_blobs(place if "://" in place else self.root / place, cache=self.root / "cache")

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
        config = TypeAdapter(Config).validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}{_found(e['input'])}" for e in error.errors())
        raise SiteError(f"{path}: {reasons}") from error
    if "@" in config.archive.url:
        raise SiteError(
            f"{path}: archive.url holds a name or password, which everybody who may read settings would see; give the"
            " name in username, the password in OVERREAD_ARCHIVE_PASSWORD or in a file named by password_file."
        )
    if config.store.database and parse_url(config.store.database).password is not None:
        raise SiteError(
            f"{path}: store.database holds a password, which everybody who may read settings would see;"
            " give it in PGPASSWORD, in ~/.pgpass or in a file named by ?passfile=PATH."
        )
    return config


def _found(value: object) -> str:
    """What was found, unless it may hold a password."""
    return "" if "@" in str(value) else f", found {value!r}"
