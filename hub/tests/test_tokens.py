"""The store of enrolment tokens: one sensor, one key, one time limit, two programs that write it."""

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sie_core import identity
from sie_core.files import acting_as_owner
from sie_core.identity import Identity, KeyKind
from sie_hub.enrol.state import MAX_ISSUED, StateError
from sie_hub.enrol.tokens import (
    DEFAULT_LIFETIME,
    MAX_LIFETIME,
    OtherKey,
    Token,
    TokenRefused,
    TokenStore,
)

from .conftest import Pki

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
KEY = "SHA256:one"


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "state")


@pytest.fixture
def certificate(pki: Pki) -> Callable[[], x509.Certificate]:
    def issue() -> x509.Certificate:
        key = identity.generate_key(KeyKind.ED25519, os.urandom)
        who = Identity(pki.exchange, "isp_a", "ns1")
        return identity.issue_sensor_certificate(
            key.public_key(), who, pki.ca, pki.ca_key, now=NOW, random=os.urandom
        )

    return issue


def issue(store: TokenStore, sensor: str = "ns1", now: datetime = NOW) -> str:
    _token, secret = store.issue("isp_a", sensor, now=now, random=os.urandom)
    assert secret is not None
    return secret


def reason(raised: pytest.ExceptionInfo[TokenRefused]) -> str:
    return raised.value.reason


def test_a_token_is_kept_as_its_hash_alone(store: TokenStore, tmp_path: Path) -> None:
    secret = issue(store)
    assert len(secret) == 43
    kept = "".join(path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert secret not in kept
    [token] = store.list()
    assert json.loads((tmp_path / "state" / "tokens" / f"{token.id}.json").read_text())["sensor"] == "ns1"


def test_nobody_but_the_owner_reads_the_store(store: TokenStore, tmp_path: Path) -> None:
    issue(store)
    paths = list((tmp_path / "state").rglob("*"))
    assert len(paths) == 3
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_the_first_key_binds_the_token(
    store: TokenStore, certificate: Callable[[], x509.Certificate]
) -> None:
    secret = issue(store)
    token, issued = store.redeem("isp_a", "ns1", secret, KEY, now=NOW, issue=certificate)
    assert token.bound_key == KEY
    assert [one.serial for one in token.issued] == [identity.serial_text(issued)]
    again, _ = store.redeem("isp_a", "ns1", secret, KEY, now=NOW + timedelta(hours=1), issue=certificate)
    assert again.bound_at == NOW
    assert len(again.issued) == 2
    with pytest.raises(OtherKey) as refused:
        store.redeem("isp_a", "ns1", secret, "SHA256:two", now=NOW, issue=certificate)
    assert refused.value.token.bound_key == KEY
    assert store.list() == [again]


def test_what_cannot_be_issued_leaves_the_token_as_it_was(store: TokenStore) -> None:
    def fail() -> x509.Certificate:
        raise ValueError("no")

    secret = issue(store)
    before = store.list()
    with pytest.raises(ValueError, match="no"):
        store.redeem("isp_a", "ns1", secret, KEY, now=NOW, issue=fail)
    assert store.list() == before


@pytest.mark.parametrize("secret", ["", "x", "A" * 43, "../../../../etc/passwd", "\0", "é"])
def test_a_token_that_was_never_issued(store: TokenStore, secret: str) -> None:
    issue(store)
    with pytest.raises(TokenRefused) as refused:
        store.check("isp_a", "ns1", secret, now=NOW)
    assert reason(refused) == "unknown_token"


def test_a_token_of_another_sensor_or_participant(store: TokenStore) -> None:
    secret = issue(store)
    for who in (("isp_a", "ns2"), ("uni_b", "ns1")):
        with pytest.raises(TokenRefused) as refused:
            store.check(*who, secret, now=NOW)
        assert reason(refused) == "other_sensor"


def test_a_token_expires_for_the_key_that_it_is_bound_to_as_well(
    store: TokenStore, certificate: Callable[[], x509.Certificate]
) -> None:
    secret = issue(store)
    store.redeem("isp_a", "ns1", secret, KEY, now=NOW, issue=certificate)
    store.check("isp_a", "ns1", secret, now=NOW + DEFAULT_LIFETIME - timedelta(seconds=1))
    with pytest.raises(TokenRefused) as refused:
        store.redeem("isp_a", "ns1", secret, KEY, now=NOW + DEFAULT_LIFETIME, issue=certificate)
    assert reason(refused) == "expired_token"


def test_a_revoked_token(store: TokenStore) -> None:
    secret = issue(store)
    [token] = store.list()
    assert store.revoke(token.id, now=NOW) is True
    assert store.revoke(token.id, now=NOW) is False
    assert store.revoke("0" * 16, now=NOW) is None
    assert store.revoke("../lock", now=NOW) is None
    with pytest.raises(TokenRefused) as refused:
        store.check("isp_a", "ns1", secret, now=NOW)
    assert reason(refused) == "revoked_token"


def test_a_token_does_not_give_certificates_without_end(
    store: TokenStore, certificate: Callable[[], x509.Certificate]
) -> None:
    secret = issue(store)
    for _ in range(MAX_ISSUED):
        store.redeem("isp_a", "ns1", secret, KEY, now=NOW, issue=certificate)
    with pytest.raises(TokenRefused) as refused:
        store.redeem("isp_a", "ns1", secret, KEY, now=NOW, issue=certificate)
    assert reason(refused) == "used_up"


@pytest.mark.parametrize(
    "lifetime", [timedelta(), timedelta(seconds=-1), MAX_LIFETIME + timedelta(seconds=1)]
)
def test_a_lifetime_has_its_limits(store: TokenStore, lifetime: timedelta) -> None:
    with pytest.raises(ValueError, match="90 days"):
        store.issue("isp_a", "ns1", now=NOW, random=os.urandom, lifetime=lifetime)


def test_a_run_again_issues_nothing_while_a_token_is_good(store: TokenStore) -> None:
    def ask(at: datetime) -> tuple[Token, str | None]:
        return store.issue("isp_a", "ns1", now=at, random=os.urandom, unless_valid=True)

    first, secret = ask(NOW)
    assert secret is not None
    assert ask(NOW + timedelta(days=6)) == (first, None)
    issue(store, "ns2")
    later, another = ask(NOW + DEFAULT_LIFETIME)
    assert another is not None
    assert later.id != first.id


def test_what_is_shown_of_a_token(store: TokenStore, certificate: Callable[[], x509.Certificate]) -> None:
    secret = issue(store)
    token, issued = store.redeem("isp_a", "ns1", secret, KEY, now=NOW, issue=certificate)
    shown = token.public(NOW)
    assert secret not in json.dumps(shown)
    assert token.sha256 not in json.dumps(shown)
    assert shown["state"] == "used"
    assert shown["bound_key"] == KEY
    assert shown["issued"] == [
        {
            "serial": identity.serial_text(issued),
            "at": "2026-11-21T12:00:00+00:00",
            "not_after": "2026-12-21T12:00:00+00:00",
        }
    ]


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b'{"id": 1}'])
def test_a_damaged_record_is_named(store: TokenStore, tmp_path: Path, damage: bytes) -> None:
    issue(store)
    [path] = (tmp_path / "state" / "tokens").iterdir()
    path.write_bytes(damage)
    with pytest.raises(StateError, match=path.name):
        store.list()


def test_what_lies_beside_the_tokens_is_no_token(store: TokenStore, tmp_path: Path) -> None:
    issue(store)
    (tmp_path / "state" / "tokens" / "README").write_text("not mine")
    (tmp_path / "state" / "tokens" / ".0000000000000000.json.17.new").write_text("cut short")
    assert len(store.list()) == 1


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in the directory's place")
    with pytest.raises(StateError, match="state"):
        TokenStore(tmp_path / "state").list()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_root_issues_tokens_with_the_rights_of_the_directorys_owner(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and "pytest" in parent.name:
            parent.chmod(0o755)
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir()
    os.chown(state, 64123, 64124)
    with acting_as_owner(state):
        issue(TokenStore(state))
    assert (os.geteuid(), os.getegid()) == (0, 0)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in state.rglob("*")}
    assert owners == {(64123, 64124)}

    # An unprivileged enrol that lays out a link gains nothing of root's.
    victim.mkdir(mode=0o755)
    shutil.rmtree(state / "tokens")
    (state / "tokens").symlink_to(victim)
    with acting_as_owner(state), pytest.raises(StateError, match="Permission denied"):
        issue(TokenStore(state))
    assert victim.stat().st_uid == 0
    assert list(victim.iterdir()) == []


def test_of_many_keys_at_once_exactly_one_gets_the_token(
    store: TokenStore, tmp_path: Path, certificate: Callable[[], x509.Certificate]
) -> None:
    """flock(2) is held by an open file, so threads that each open the store race as processes do."""
    secret = issue(store)
    ready = threading.Barrier(8)

    def race(number: int) -> str:
        mine = TokenStore(tmp_path / "state")
        ready.wait(10)
        try:
            mine.redeem("isp_a", "ns1", secret, f"SHA256:{number}", now=NOW, issue=certificate)
        except TokenRefused as refused:
            return refused.reason
        return f"SHA256:{number}"

    with ThreadPoolExecutor(8) as racers:
        said = list(racers.map(race, range(8)))
    assert said.count("other_key") == 7
    [token] = store.list()
    assert token.bound_key in said
    assert len(token.issued) == 1
