"""The endpoint's encrypted port: files of the site in, a TLS context as BCP 195 asks for it out (PS3.15 annex B)."""

import ssl
from pathlib import Path

from apps.settings import DicomTls, Site, SiteError


def tls_context(site: Site, settings: DicomTls) -> ssl.SSLContext:
    """TLS 1.2 or newer; callers must show a certificate where the settings say who signs theirs. Raises `SiteError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(_file(site, settings.certificate), _file(site, settings.key))
        if settings.ca_file:
            context.load_verify_locations(_file(site, settings.ca_file))
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(name for name in (settings.certificate, settings.key, settings.ca_file) if name)
        raise SiteError(f"dicom.tls: one of {names} cannot be used ({error}). Nothing was started.") from error
    return context


def _file(site: Site, name: str) -> Path:
    return site.root / name
