"""How a client is let in: TLS in both directions, a token, and files that will not do; against a real TLS server."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from authority import Authority, Issued
from quorem.command import main
from quorem.protos.errors import DataError, Malformed, MissingFile, QuoremError, Unavailable
from quorem.protos.scoring_pb2 import DescribeResponse
from quorem.serve.async_client import AsyncClient
from quorem.serve.channel import Tls
from quorem.serve.client import Client

TOKEN = "3b1f0c6e9a7d4f52"


@dataclass
class Server:
    """Its two ports, one of them with mutual TLS, and the `authorization` of the calls it had."""

    tls: str
    clear: str
    seen: list[object] = field(default_factory=list)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("access") / "ours")


@pytest.fixture(scope="module")
def caller(authority: Authority) -> Issued:
    return authority.issue("caller")


@pytest.fixture(scope="module")
def tls(authority: Authority, caller: Issued) -> Tls:
    return Tls(authority.own.cert, caller.cert, caller.key)


@pytest.fixture(scope="module")
def listening(authority: Authority) -> Iterator[Server]:
    seen = list[object]()

    def describe(_request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        return DescribeResponse(model="m", version=1, schema_json="{}").SerializeToString()

    own = authority.issue("server")
    pair = [(own.key.read_bytes(), own.cert.read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, authority.own.cert.read_bytes(), require_client_auth=True)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(describe)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("quorem.v1.Scorer", {"Describe": method}),))
    ports = server.add_secure_port("127.0.0.1:0", credentials), server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Server(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", seen)
    server.stop(None).wait()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def test_a_caller_with_a_certificate_and_a_token_is_let_in(listening: Server, tls: Tls, token_file: Path):
    async def describe() -> str:
        async with AsyncClient(listening.tls, tls=tls, token_file=token_file, connections=2) as client:
            return (await client.describe()).model

    listening.seen.clear()
    with Client(listening.tls, tls=tls, token_file=token_file, connections=2) as client:
        assert client.describe().model == "m"
    assert asyncio.run(describe()) == "m"
    assert listening.seen == [f"Bearer {TOKEN}"] * 2


def test_a_stranger_is_not(listening: Server, authority: Authority, caller: Issued, tmp_path: Path):
    others = Authority(tmp_path / "others")
    theirs = others.issue("caller")
    strangers = {
        "another authority's server": Tls(others.own.cert, caller.cert, caller.key),
        "an authority that gRPC does not bring along": Tls(None, caller.cert, caller.key),
        "no certificate": Tls(authority.own.cert),
        "another authority's certificate": Tls(authority.own.cert, theirs.cert, theirs.key),
        "no TLS": None,
    }
    for tls in strangers.values():
        with Client(listening.tls, tls=tls, retry=False, timeout_s=5) as client, pytest.raises(Unavailable):
            client.describe()


def test_a_token_needs_tls_or_leave(listening: Server, token_file: Path):
    with pytest.raises(DataError, match="a token travels over TLS"):
        Client(listening.clear, token_file=token_file)
    with pytest.raises(DataError, match="a token travels over TLS"):
        AsyncClient(listening.clear, token_file=token_file)
    listening.seen.clear()
    with Client(listening.clear, token_file=token_file, insecure_token=True) as client:
        client.describe()
    with Client(listening.clear) as client:
        client.describe()
    assert listening.seen == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("text", [b"", b" \n", b"name token", b"a\x00b", "tök".encode(), b"\xff"])
def test_a_file_without_a_token_is_refused_and_not_quoted(token_file: Path, text: bytes):
    token_file.write_bytes(text)
    with pytest.raises(Malformed, match=f"{token_file}: .*one word") as caught:
        Client("localhost:1", token_file=token_file, insecure_token=True)
    assert not text.strip() or repr(text.decode(errors="replace")).strip("'") not in str(caught.value)
    token_file.unlink()
    with pytest.raises(MissingFile, match=str(token_file)):
        Client("localhost:1", token_file=token_file, insecure_token=True)


def test_files_of_tls_that_will_not_do_are_told_before_a_call(authority: Authority, caller: Issued, tmp_path: Path):
    rubbish, locked = tmp_path / "rubbish.pem", tmp_path / "locked.key"
    rubbish.write_text("none")
    locking = ["openssl", "pkey", "-in", str(caller.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(locking, check=True)
    ca = authority.own.cert
    bad: list[tuple[Tls, type[QuoremError], str]] = [
        (Tls(tmp_path / "none.pem"), MissingFile, "none.pem"),
        (Tls(tmp_path), MissingFile, str(tmp_path)),
        (Tls(rubbish), Malformed, "rubbish.pem"),
        (Tls(ca, rubbish, caller.key), Malformed, "rubbish.pem"),
        (Tls(ca, caller.cert, authority.own.key), Malformed, "a key is its certificate's"),
        (Tls(ca, caller.cert, locked), Malformed, "no password"),
        (Tls(ca, caller.cert), DataError, "come together"),
        (Tls(ca, None, caller.key), DataError, "come together"),
    ]
    for tls, kind, reason in bad:
        with pytest.raises(kind, match=reason):
            Client("localhost:1", tls=tls)


def test_the_commands_take_them(
    listening: Server, tls: Tls, token_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "rows.csv").write_text("\n")
    files = [f"--tls-{name}={path}" for name, path in vars(tls).items()]
    listening.seen.clear()
    score = ["score", listening.tls, str(tmp_path / "rows.csv"), "--json", "--connections", "2"]
    assert main([*score, *files, "--token-file", str(token_file)]) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == []
    assert listening.seen == [f"Bearer {TOKEN}"]
    for command in (score, ["bench", listening.tls, "--json"]):
        assert main([*command, "--tls-ca", str(tmp_path / "none")]) == 2
        assert json.loads(capsys.readouterr().err)["error"] == "MissingFile"
