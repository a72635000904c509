"""DICOM over TLS: dcmtk's own sender gets in with its certificate, and nobody gets in without."""

import contextlib
import datetime
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from apps.endpoint.receiver import Receiver
from apps.settings import Site, SiteError
from labeling_protocols.series_writer import write_series
from tests.conftest import image_of
from tests.dicom.examples import AXIAL, identity_of
from tests.endpoint.peers import dcmtk, free_port, site_with_endpoint
from tests.endpoint.test_receiver import rows


def certified(name: str, folder: Path) -> tuple[Path, Path]:
    """A key and a certificate that it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_path, certificate_path = folder / f"{name}.key", folder / f"{name}.crt"
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_path, certificate_path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = site_with_endpoint(tmp_path / "site", quiet_seconds=600)
    certified("endpoint", made.root / "keys")
    _, peers = certified("peer", tmp_path)
    (made.root / "keys" / "peers.pem").write_bytes(peers.read_bytes())
    tls = f'\n[dicom.tls]\nport = {free_port()}\ncertificate = "keys/endpoint.crt"\nkey = "keys/endpoint.key"\n'
    with (made.root / "config.toml").open("a") as settings:
        settings.write(tls + 'ca_file = "keys/peers.pem"\n')
    return Site(made.root)


def storescu(site: Site, key: Path, certificate: Path, images: list[Path]) -> int:
    assert site.config.dicom.tls is not None
    trusted = site.root / "keys" / "endpoint.crt"
    command = [dcmtk("storescu"), "+tls", str(key), str(certificate), "+cf", str(trusted), "-aec", "OVERREAD"]
    command += ["127.0.0.1", str(site.config.dicom.tls.port), *map(str, images)]
    return subprocess.run(command, env={"TCP_NODELAY": "1"}, capture_output=True, timeout=60, check=False).returncode


def test_a_sender_with_a_certificate_is_served_and_one_without_is_not(site: Site, tmp_path: Path) -> None:
    images = write_series(image_of(1, AXIAL), tmp_path / "series", identity_of("tls"))
    stranger = certified("stranger", tmp_path)
    with Receiver(site):
        assert storescu(site, *stranger, images) != 0
        assert rows(site) == []
        assert storescu(site, tmp_path / "peer.key", tmp_path / "peer.crt", images) == 0
        assert len(rows(site)) == len(images)
        assert site.config.dicom.tls is not None
        with socket.create_connection(("127.0.0.1", site.config.dicom.tls.port), 20) as plain:
            plain.sendall(b"\1\0\0\0\0\x50" + b"\0" * 80)  # an A-ASSOCIATE-RQ that is not encrypted
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(100)[:1] != b"\2"  # it is not accepted


def test_a_certificate_that_is_not_there_is_named_before_anything_starts(site: Site) -> None:
    (site.root / "keys" / "endpoint.key").unlink()
    with pytest.raises(SiteError, match=r"dicom\.tls: one of keys/endpoint.crt, keys/endpoint.key"):
        Receiver(site).__enter__()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", site.config.dicom.port))  # nothing listens there
