"""Laws of tokens: who is let in, what a file may hold, and which options guard which calls."""

import logging
from pathlib import Path
from typing import Any

import pytest
from quorem.protos.errors import DataError, Malformed, MissingFile, Unauthenticated
from quorem.serve.call import Call
from quorem.serve.certificates import Certificates
from quorem.serve.security import Security, tls_of
from quorem.serve.tokens import Tokens

ALICE, BOB = "a" * 16, "b" * 40
METHODS = {"s": {name: lambda request, _call: request for name in ("Score", "RepositoryIndex", "RepositoryModelLoad")}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# name token\n\nalice {ALICE}\nbob\t{BOB} # until spring\nalice {ALICE}#2\n")
    path.chmod(0o600)
    return path


def test_a_token_has_a_name_and_no_other_text_has(path: Path):
    tokens = Tokens(path)
    assert [tokens.name_of(each) for each in (ALICE, BOB, f"{ALICE}#2")] == ["alice", "bob", "alice"]
    for wrong in ("", "alice", ALICE[:-1], ALICE + "a", ALICE.upper(), f"{ALICE} ", "\u00e9" * 16, "\ud800", "until"):
        with pytest.raises(Unauthenticated, match="authorization: Bearer") as caught:
            tokens.name_of(wrong)
        assert not wrong or wrong not in str(caught.value).replace("alice", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "holds a token"),
        (b"# alice " + ALICE.encode(), "holds a token"),
        (ALICE.encode(), "line 1: .* 1 words"),
        (b"\nalice secret-of-alice and more", "line 2: .* 4 words"),
        (b"alice 123456789012345", "15 characters"),
        (b"alice 123456789012345\xff", "other characters"),
        (b"alice 1234567890123456\0", "other characters"),
        (b"alice 1234567890123456\nbob 1234567890123456", "line 2: .* stands above"),
        (b"#" * (1 << 20) + b"#", "at most"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_and_not_repeated(path: Path, text: bytes, told: str):
    path.write_bytes(text)
    with pytest.raises(Malformed, match=told) as caught:
        Tokens(path)
    assert not any(secret in str(caught.value) for secret in ("secret-of", "12345678", "aaaaaaaa"))


@pytest.mark.parametrize("name", ["none", "directory"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str):
    (tmp_path / "directory").mkdir()
    with pytest.raises(MissingFile, match="token file is there"):
        Tokens(tmp_path / name)


def test_a_file_is_read_again_when_it_changes(path: Path, caplog: pytest.LogCaptureFixture):
    tokens = Tokens(path)
    path.write_text(f"carol {BOB}\n")
    assert tokens.name_of(BOB) == "carol"
    with pytest.raises(Unauthenticated):
        tokens.name_of(ALICE)
    with caplog.at_level(logging.WARNING):
        path.write_text(f"carol {BOB}\nalice short\n")
        assert [tokens.name_of(BOB) for _ in range(3)] == ["carol"] * 3
    assert len(caplog.records) == 1
    assert "line 2" in caplog.text
    assert BOB not in caplog.text
    for nobody in (lambda: path.write_text("# nobody\n"), path.unlink):
        nobody()
        with pytest.raises(Unauthenticated):
            tokens.name_of(BOB)


def allowed(security: Security, method: str, token: str) -> bool:
    call = Call(token=token)
    answered = security.restrict(METHODS)["s"][method](b"x", call) == b"x"
    assert call.caller in ("", "alice")
    assert call.caller == "alice" or token != ALICE
    return answered


def test_calls_of_the_repository_need_a_token_where_they_do_anything(path: Path):
    enabled = Security(token_file=path, allow_control=True)
    for method in ("RepositoryIndex", "RepositoryModelLoad"):
        for wrong in ("", "wrong" * 4):
            with pytest.raises(Unauthenticated):
                allowed(enabled, method, wrong)
        assert allowed(enabled, method, ALICE)
    assert allowed(enabled, "Score", "")
    assert allowed(Security(), "RepositoryIndex", "")


def test_all_calls_need_a_token_where_the_options_say_so(path: Path):
    security = Security(token_file=path, guarded="all")
    for method in ("Score", "RepositoryIndex"):
        with pytest.raises(Unauthenticated):
            allowed(security, method, "")
        assert allowed(security, method, ALICE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"allow_control": True}, "--allow-control needs --token-file"),
        ({"guarded": "all"}, "--token-for all needs --token-file"),
        ({"token_file": Path("any")}, "--token-file guards"),
    ],
)
def test_options_that_do_nothing_or_open_the_server_are_refused(options: dict[str, Any], told: str):
    with pytest.raises(DataError, match=told):
        Security(**options).check("127.0.0.1")


def test_one_file_of_tls_needs_the_other(tmp_path: Path):
    assert tls_of(None, None, None) is None
    assert tls_of(tmp_path, tmp_path, None) == Certificates(tmp_path, tmp_path)
    for given in ((tmp_path, None, None), (None, tmp_path, None), (None, None, tmp_path), (tmp_path, None, tmp_path)):
        with pytest.raises(DataError, match="both --tls-cert and --tls-key"):
            tls_of(*given)


def test_what_is_unwise_is_told(path: Path):
    security = Security(token_file=path, guarded="all")
    assert [security.check(host) for host in ("127.0.0.1", "::1", "localhost")] == [[], [], []]
    (warning,) = security.check("0.0.0.0")
    assert "unencrypted" in warning
    path.chmod(0o644)
    (warning,) = security.check("127.0.0.1")
    assert "can be read by every user" in warning
