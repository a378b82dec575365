"""HTTPS of the server's own: real boto3 against a certificate of a CA made here, replaced while connections live."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from botocore.exceptions import SSLError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kit import client, process_serving

from aboveboard.rekognition.certificate import Certificate

PLAIN = serialization.NoEncryption()


class Authority:
    """A certificate authority that makes pairs for 127.0.0.1."""

    def __init__(self, folder):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.signed(self.name, self.key.public_key(), is_authority=True))

    def signed(self, subject, public_key, is_authority=False, days=1, since=-9):
        now = datetime.now(UTC)
        made = x509.CertificateBuilder(
            self.name, subject, public_key, x509.random_serial_number(), now + timedelta(days=since), now + timedelta(days=days)
        )
        made = made.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        if not is_authority:
            made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        return made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def pair(self, name, encryption=PLAIN, **how):
        """Certificate and key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        files[0].write_bytes(self.signed(subject, key.public_key(), **how))
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        return files


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def version_2(certificate):
    """A certificate's file with its version number changed."""
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    return ssl.DER_cert_to_PEM_cert(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1)).encode()


def options(pair):
    return ["--tls-cert", str(pair[0]), "--tls-key", str(pair[1])]


def offered(server):
    """The certificate that a new connection gets."""
    host, port = server.endpoint.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port)))


def says(log, text):
    """Whether the log has these words within some seconds."""
    deadline = time.monotonic() + 30
    while text not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    return text in log.read_text()


def becomes(server, pair):
    """Whether new connections get this pair's certificate within some seconds."""
    wanted = pair[0].read_text().strip()
    deadline = time.monotonic() + 30
    while offered(server).strip() != wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_boto3_speaks_https_and_a_replaced_certificate_is_taken_without_a_restart(tmp_path, authority):
    """The printed address is https. A pair replaced by another is taken by new connections while the old ones go on; a half-written or
    broken one is not, and the log says so."""
    first, second = authority.pair("first"), authority.pair("second")
    live, later = authority.pair("live"), authority.pair("later", since=1, days=2)
    for file, source in zip(live, first, strict=True):
        file.write_bytes(source.read_bytes())
    log = tmp_path / "log"
    with process_serving(tmp_path / "data", options=options(live), log=log) as server:
        assert server.endpoint.startswith("https://127.0.0.1:")
        boto = client(server.endpoint, server.key, verify=authority.file)
        boto.create_collection(CollectionId="a")
        assert offered(server).strip() == first[0].read_text().strip()
        live[0].write_bytes(second[0].read_bytes()[:300])
        assert says(log, "is no certificate in PEM")
        live[0].write_bytes(version_2(second[0]))
        assert says(log, "is no certificate of X.509 version 3")
        live[0].write_bytes(later[0].read_bytes())
        assert says(log, "is not valid before")
        live[0].write_bytes(second[0].read_bytes())
        assert says(log, "is not the one of the certificate")
        assert offered(server).strip() == first[0].read_text().strip()
        live[1].write_bytes(second[1].read_bytes())
        assert becomes(server, second)
        assert boto.list_collections()["CollectionIds"] == ["a"]  # on the connection of before
        assert client(server.endpoint, server.key, verify=authority.file).list_collections()["CollectionIds"] == ["a"]
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(SSLError):
            client(server.endpoint, server.key, verify=Authority(other).file).list_collections()
        boto.close()


def test_nothing_older_than_tls_1_2_is_spoken(tmp_path, authority):
    """And a client without TLS gets no answer in the clear."""
    with process_serving(tmp_path / "data", options=options(authority.pair("versions"))) as server:
        host, port = server.endpoint.removeprefix("https://").split(":")
        for version, passes in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.create_default_context(cafile=str(authority.file))
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):
                context.minimum_version = context.maximum_version = version
            with socket.create_connection((host, int(port)), timeout=10) as wire:
                try:
                    spoken = context.wrap_socket(wire, server_hostname=host).version()
                except (ssl.SSLError, ConnectionError):
                    spoken = None
            assert bool(spoken) is passes, version
        with socket.create_connection((host, int(port)), timeout=10) as wire:
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in wire.recv(1000)


def test_files_that_are_no_pair_to_serve_with_are_refused_with_what_to_mend(tmp_path, authority):
    """At the start, before the port answers: exit code 5, one line."""
    good, other, expired = authority.pair("good"), authority.pair("other"), authority.pair("expired", days=-1)
    locked = authority.pair("locked", serialization.BestAvailableEncryption(b"secret"))
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(os.urandom(500))
    old = tmp_path / "old"
    old.write_bytes(version_2(good[0]))
    for pair, text in (
        ((old, good[1]), "is no certificate of X.509 version 3"),
        (authority.pair("later", since=1, days=2), "is not valid before"),
        ((good[0], other[1]), "is not the one of the certificate"),
        ((tmp_path / "none.pem", good[1]), "none.pem cannot be read: No such file"),
        ((good[0], tmp_path), "cannot be read: Is a directory"),
        ((rubbish, good[1]), "is no certificate in PEM"),
        ((good[1], good[1]), "is no certificate in PEM"),
        ((good[0], rubbish), "is no private key in PEM"),
        ((good[0], good[0]), "is no private key in PEM"),
        (locked, "or an encrypted one"),
        (expired, "expired on"),
    ):
        done = _serve(tmp_path, *options(pair))
        assert done.returncode == 5, done
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
    assert "belong together" in _serve(tmp_path, "--tls-cert", str(good[0])).stderr


def test_nothing_that_a_new_pair_does_ends_the_server(tmp_path, authority, monkeypatch, caplog):
    """An exception of a kind that nobody thought of is logged by its type, and the old pair stays."""
    pair = authority.pair("kept")
    certificate = Certificate(*pair)
    pair[0].write_bytes(b"another")

    def broken(_):
        raise ArithmeticError("SECRET")

    monkeypatch.setattr(x509, "load_pem_x509_certificates", broken)
    asyncio.run(certificate.refresh())
    assert "ArithmeticError" in caplog.text
    assert "SECRET" not in caplog.text


def test_connections_without_a_handshake_make_room_for_new_ones(tmp_path, authority):
    """They count from the first: of sixty where there may be twenty, the oldest forty end, and clients are answered."""
    with process_serving(tmp_path / "data", options=options(authority.pair("crowd")), connections="20") as server, ExitStack() as stack:
        boto = client(server.endpoint, server.key, verify=authority.file)
        address = ("127.0.0.1", server.port)
        wires = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(60)]
        wires[0].settimeout(30)
        assert boto.list_collections()["CollectionIds"] == []
        for wire in wires[:40]:
            with suppress(ConnectionError):
                assert wire.recv(1) == b""
        assert len(list(Path(f"/proc/{server.pid}/fd").iterdir())) < 60
        half = stack.enter_context(socket.create_connection(address, timeout=30))
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(100) == b""
        assert boto.list_collections()["CollectionIds"] == []
        boto.close()  # an idle connection would keep the server from its end for 30 s


def test_more_connections_than_the_system_allows_are_refused_at_the_start(tmp_path):
    """With what to set; a limit that may be raised is raised."""
    done = _serve(tmp_path, limit="-n 700")
    assert done.returncode == 5
    assert "LimitNOFILE=) to 1000, or set 'connections' to 200" in done.stderr
    assert done.stderr.count("\n") == 1


def test_beyond_this_machine_tls_is_asked_for(tmp_path, authority):
    """0.0.0.0 in plain HTTP is refused, with TLS it serves."""
    done = _serve(tmp_path, "--host", "0.0.0.0")
    assert done.returncode == 3
    assert "--tls-cert" in done.stderr
    with process_serving(tmp_path / "data", options=[*options(authority.pair("open")), "--host", "0.0.0.0"]) as server:
        endpoint = server.endpoint.replace("0.0.0.0", "127.0.0.1")
        assert client(endpoint, server.key, verify=authority.file).list_collections()["CollectionIds"] == []


def _serve(tmp_path, *more, limit="-S -n 700"):
    command = [
        "bash",
        "-c",
        f'ulimit {limit}; exec "$@"',
        "-",
        sys.executable,
        "-m",
        "aboveboard",
        "serve",
        "--port",
        "0",
        "--data",
        str(tmp_path / "data"),
        *more,
    ]
    environment = {**os.environ, "ABOVEBOARD_PACK": "null"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
