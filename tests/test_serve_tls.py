"""Laws of TLS: files that do not fit are refused by name; new ones need no restart, broken ones change nothing."""

import logging
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from authority import Authority, Issued
from frames import Connection, asking, framed
from quorem.protos.errors import Malformed, MissingFile, QuoremError
from quorem.serve.certificates import Certificates
from quorem.serve.port import reserve
from transports import make

OVER = ("nghttp2", "grpcio")
PATH = "/test.Echo/Echo"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture
def pair(ours: Authority, tmp_path: Path) -> Certificates:
    """Files that a test may spoil."""
    pair = Certificates(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    ours.issue("first").put(pair.cert, pair.key)
    (tmp_path / "ca.pem").write_bytes(ours.own.cert.read_bytes())
    return pair


def remove(path: Path) -> None:
    path.unlink()


def der(path: Path) -> None:
    path.write_bytes(ssl.PEM_cert_to_DER_cert(path.read_text()))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


SPOILT: dict[str, tuple[str, Callable[[Path], object], type[QuoremError], str]] = {
    "no certificate": ("cert", remove, MissingFile, "files of TLS are there"),
    "no key": ("key", remove, MissingFile, "files of TLS are there"),
    "no authorities": ("ca", remove, MissingFile, "files of TLS are there"),
    "a binary certificate": ("cert", der, Malformed, "is PEM"),
    "an empty certificate": ("cert", write(b""), Malformed, "is PEM"),
    "authorities that are text": ("ca", write(b"none"), Malformed, "is PEM"),
    "authorities that are no text": ("ca", write(b"\xff\0"), Malformed, "is PEM"),
    "a certificate cut short": ("cert", cut, Malformed, "is PEM"),
    "a key cut short": ("key", cut, Malformed, "open PEM key"),
    "an empty key": ("key", write(b""), Malformed, "open PEM key"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_files_that_break_a_rule_are_refused_by_name(name: str, pair: Certificates):
    file, spoil, error, told = SPOILT[name]
    path: Path = getattr(pair, file)
    spoil(path)
    with pytest.raises(error, match=told) as caught:
        pair.read()
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_key_of_another_certificate_or_with_a_passphrase_is_refused(ours: Authority, pair: Certificates):
    key = ours.issue("other").key
    with pytest.raises(Malformed, match="key is that of the certificate"):
        Certificates(pair.cert, key).read()
    closed = pair.key.with_suffix(".closed")
    lock = ["openssl", "ec", "-in", str(pair.key), "-aes128", "-passout", "pass:secret", "-out", str(closed)]
    subprocess.run(lock, check=True, capture_output=True)
    with pytest.raises(Malformed, match="without a passphrase"):
        Certificates(pair.cert, closed).read()


class Echo:
    """A server in this process that answers what it was sent."""

    def __init__(self, transport: str, files: Certificates) -> None:
        methods = {"test.Echo": {"Echo": lambda request, _call: request}}
        self._server = make(transport, methods, certificates=files)
        self.port = reserve("127.0.0.1", 0)
        self._server.start(self.port.host, self.port.number)

    def ask(self, root: Path, own: Issued | None = None) -> bytes:
        """Call over a new connection."""
        given = (own.key.read_bytes(), own.cert.read_bytes()) if own else (None, None)
        secured = grpc.ssl_channel_credentials(root.read_bytes(), *given)
        with grpc.secure_channel(self.port.address, secured, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            return channel.unary_unary(PATH)(b"hello", timeout=5)

    def shown(self) -> str:
        """The certificate that a new caller is shown."""
        return ssl.get_server_certificate(("127.0.0.1", self.port.number))

    def close(self) -> None:
        self._server.close()
        self.port.holder.close()


def test_new_files_serve_the_next_connection_and_broken_ones_are_told_once(
    transport: str, ours: Authority, pair: Certificates, caplog: pytest.LogCaptureFixture
):
    pair = Certificates(pair.cert, pair.key)
    echo, caller = Echo(transport, pair), ours.own.cert
    try:
        first = echo.shown()
        assert first == pair.cert.read_text()
        assert echo.ask(caller) == b"hello"
        second = ours.issue("second")
        with caplog.at_level(logging.WARNING):
            pair.cert.write_bytes(second.cert.read_bytes())  # the key is still the old one's
            assert [echo.shown(), echo.shown()] == [first, first]
            assert echo.ask(caller) == b"hello"
        assert len(caplog.records) == 1
        assert "stays in use" in caplog.text
        pair.key.write_bytes(second.key.read_bytes())
        assert echo.shown() == second.cert.read_text()
        pair.cert.unlink()
        assert echo.shown() == second.cert.read_text()
        assert echo.ask(caller) == b"hello"
    finally:
        echo.close()


def test_new_authorities_decide_who_may_call(transport: str, ours: Authority, pair: Certificates, tmp_path: Path):
    theirs = Authority(tmp_path / "theirs")
    known, stranger = ours.issue("known"), theirs.issue("stranger")
    echo = Echo(transport, pair)
    try:
        assert echo.ask(ours.own.cert, known) == b"hello"
        for refused in (None, stranger):
            with pytest.raises(grpc.RpcError):
                echo.ask(ours.own.cert, refused)
        assert pair.ca
        pair.ca.write_bytes(theirs.own.cert.read_bytes())
        assert echo.ask(ours.own.cert, stranger) == b"hello"
        with pytest.raises(grpc.RpcError):
            echo.ask(ours.own.cert, known)
    finally:
        echo.close()


@pytest.mark.parametrize(
    ("spoken", "served"), [(["h2"], True), (["h2", "http/1.1"], True), (["http/1.1"], False), ([], False)]
)
def test_only_who_says_h2_is_served(
    transport: str, ours: Authority, pair: Certificates, spoken: list[str], served: bool
):
    echo, context = Echo(transport, Certificates(pair.cert, pair.key)), ssl.create_default_context(cafile=ours.own.cert)
    if spoken:
        context.set_alpn_protocols(spoken)
    try:
        with Connection(echo.port.address, context) as connection:
            reply = connection.call(framed(b"hello"), asking(PATH, scheme="https"))
            assert (reply.data == framed(b"hello")) == served
    except (ssl.SSLError, ConnectionError):
        assert not served
    finally:
        echo.close()
