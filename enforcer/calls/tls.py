"""TLS for callers: certificates from files, renewed without a restart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

log = structlog.get_logger(__name__)


class BadCertificate(Exception):  # noqa: N818 it says what is the case
    """The files cannot be served with. Whatever was served with before stays."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates are, as PEM."""

    certificate: Path
    """The server's, followed by what links it to its authority."""
    key: Path
    """Its private key, without a passphrase."""
    client_authority: Path | None = None
    """Authorities of client certificates. With it, every caller has to show one."""

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file."""
        return tuple(file for file in (self.certificate, self.key, self.client_authority) if file is not None)


class Tls:
    """Credentials of the server. New connections are greeted with the newest good certificate; old ones stay."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            BadCertificate: They do not fit; the message names the file.
        """
        self.files = files
        self.rejected = 0
        """Renewals that were not taken over."""
        self._newest: grpc.ServerCertificateConfiguration | None = None
        self.credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            _read(files),
            self._take_newest,  # type: ignore[arg-type] # its stub knows no None
            require_client_authentication=files.client_authority is not None,
        )

    def reload(self) -> None:
        """Serve with what the files hold now; what does not fit is logged, and the old certificate stays."""
        try:
            self._newest = _read(self.files)
        except BadCertificate as error:
            self.rejected += 1
            log.error("certificate_rejected", problem=str(error), stays="the one before")  # noqa: TRY400 its text says it all
        else:
            log.info("certificate_replaced", file=str(self.files.certificate))

    def _take_newest(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC on a thread of its own before each handshake; None: as before."""
        newest, self._newest = self._newest, None
        return newest


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    # gRPC says of a bad file no more than that it is bad, and only when somebody connects.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    texts = _read_all(files)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_passphrase)
    except (OSError, ValueError) as error:
        raise BadCertificate(f"{files.certificate} and {files.key} are no PEM certificate with its key: {error}") from error
    if files.client_authority is not None:
        try:
            context.load_verify_locations(files.client_authority)
        except OSError as error:
            raise BadCertificate(f"{files.client_authority} holds no PEM certificates: {error}") from error
    if texts != _read_all(files):
        raise BadCertificate(f"{files.certificate} was written while it was read")
    certificate, key, *authority = texts
    return grpc.ssl_server_certificate_configuration(
        [(key, certificate)], root_certificates=authority[0] if authority else None
    )


def _read_all(files: TlsFiles) -> list[bytes]:
    try:
        return [file.read_bytes() for file in files.all]
    except OSError as error:
        raise BadCertificate(f"{error.filename}: {error.strerror}") from error


def _refuse_passphrase() -> str:
    raise ValueError("the key is encrypted; a key without a passphrase is needed")
