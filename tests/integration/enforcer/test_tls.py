"""The enforcer's own TLS: who shows which certificate, and certificates that are renewed while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from enforcer.calls.tls import BadCertificate, Tls, TlsFiles
from ratchet.v1 import enforcer_pb2, enforcer_pb2_grpc
from tests.integration.enforcer.enforcer_under_test import NOWHERE, EnforcerProcess, poll, run_enforcer

CHECK = enforcer_pb2.CheckRequest(user_id="alice", action="other")
HOST = "127.0.0.1"
ACCESS = """\
version: 1
callers:
  - { name: checkout, certificates: [checkout.internal], roles: [check] }
  - { name: reports, certificates: [Reports], roles: [report] }
"""


@dataclass(frozen=True)
class Secured:
    enforcer: EnforcerProcess
    folder: Path
    authority: trustme.CA

    def check(self, client: trustme.LeafCert | None, trusted: trustme.CA | None = None) -> enforcer_pb2.CheckResponse:
        """One check over a connection of its own."""
        credentials = grpc.ssl_channel_credentials(
            (trusted or self.authority).cert_pem.bytes(), *((None, None) if client is None else split(client))
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.enforcer.address, credentials, options) as channel:
            return enforcer_pb2_grpc.EnforcerStub(channel).Check(CHECK, timeout=30)


def split(leaf: trustme.LeafCert) -> tuple[bytes, bytes]:
    """Key and certificate chain, as gRPC takes them."""
    return leaf.private_key_pem.bytes(), b"".join(pem.bytes() for pem in leaf.cert_chain_pems)


def write(folder: Path, leaf: trustme.LeafCert, authority: trustme.CA) -> None:
    key, chain = split(leaf)
    (folder / "key.pem").write_bytes(key)
    (folder / "cert.pem").write_bytes(chain)
    authority.cert_pem.write_to_path(folder / "clients.pem")


def name_options(folder: Path) -> tuple[str, ...]:
    return (
        *("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")),
        *("--tls-client-ca", str(folder / "clients.pem")),
    )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    write(folder, authority.issue_cert(HOST), authority)
    (folder / "access.yaml").write_text(ACCESS)
    options = ("--access", str(folder / "access.yaml"), *name_options(folder))
    with run_enforcer(f"redis://{NOWHERE}/0", NOWHERE, folder, *options) as enforcer:
        assert enforcer.wait_for_line("enforcer_ready")["transport"] == "grpcio"
        yield Secured(enforcer, folder, authority)


def refuse(secured: Secured, client: trustme.LeafCert | None) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        secured.check(client)
    return refused.value.code(), refused.value.details() or ""


def test_caller_is_known_by_a_name_in_its_certificate(secured: Secured) -> None:
    certificate = secured.authority.issue_cert("other.internal", "checkout.internal")
    assert secured.check(certificate).outcome == enforcer_pb2.OUTCOME_ALLOW


def test_common_name_counts_where_there_is_no_other(secured: Secured) -> None:
    code, message = refuse(secured, secured.authority.issue_cert(common_name="Reports"))
    assert (code, message) == (grpc.StatusCode.PERMISSION_DENIED, "caller reports lacks the role check; it has: report")
    code, _ = refuse(secured, secured.authority.issue_cert("other.internal", common_name="Reports"))
    assert code == grpc.StatusCode.UNAUTHENTICATED


def test_certificate_with_an_unknown_name_is_nobodys(secured: Secured) -> None:
    code, message = refuse(secured, secured.authority.issue_cert("stranger.internal"))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    assert "client certificate that this enforcer knows" in message


def test_without_a_certificate_of_the_authority_nobody_connects(secured: Secured) -> None:
    for client in (None, trustme.CA().issue_cert("checkout.internal")):
        code, _ = refuse(secured, client)
        assert code == grpc.StatusCode.UNAVAILABLE


def test_renewed_certificates_are_served_and_bad_ones_are_not(secured: Secured) -> None:
    enforcer, folder, authority = secured.enforcer, secured.folder, secured.authority
    own = authority.issue_cert("checkout.internal")
    (folder / "key.pem").write_bytes(split(authority.issue_cert(HOST))[0])
    rejected = enforcer.wait_for_line("certificate_rejected")
    assert rejected["problem"].startswith(
        f"{folder / 'cert.pem'} and {folder / 'key.pem'} are no PEM certificate with its key: "
    )
    assert enforcer.read_metric("ratchet_certificates_rejected_total") >= 1
    assert secured.check(own).outcome == enforcer_pb2.OUTCOME_ALLOW

    other = trustme.CA()
    write(folder, other.issue_cert(HOST), other)

    def is_renewed() -> bool:
        try:
            return bool(secured.check(other.issue_cert("checkout.internal"), other).limits)
        except grpc.RpcError:
            return False

    try:
        poll(is_renewed, "the new certificate")
        assert refuse(secured, own)[0] == grpc.StatusCode.UNAVAILABLE
    finally:
        write(folder, authority.issue_cert(HOST), authority)
        poll(lambda: enforcer.lines[-1]["event"] == "certificate_replaced", "the first authority")


def test_bad_files_are_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    write(tmp_path, authority.issue_cert(HOST), authority)
    certificate, key, clients = (tmp_path / name for name in ("cert.pem", "key.pem", "clients.pem"))
    files = TlsFiles(certificate, key, clients)
    Tls(files)
    clients.write_text("none")
    with pytest.raises(BadCertificate, match=rf"^{clients} holds no PEM certificates: "):
        Tls(files)
    clients.unlink()
    with pytest.raises(BadCertificate, match=rf"^{clients}: No such file or directory$"):
        Tls(files)
