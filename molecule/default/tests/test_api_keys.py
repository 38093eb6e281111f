"""API keys are rotated while they are in use: nothing is lost, nothing refused before they are retired."""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from sie_lab import deploy, domains
from sie_lab.deploy import INGEST_PORT, SERVE_PORT
from sie_lab.hosts import on
from sie_lab.machine import CommandError, run
from sie_lab.topology import Lab

from tests.fleet.clients import CONTAINERS, AskingReader, LegacyUpload
from tests.fleet.reader import await_true

PROGRAM = "/opt/sie/sie-hub/bin/sie-hub"
WHO, READER, UPLOAD = "isp_a", "auditor", "relay1"
CHANNEL = "202"  # that of the recorded session
WITHIN = 20.0  # seconds for a key to be in force, or for another dozen answers
QUIET_HOURS = 0.0005  # some two seconds, in the place of a day
MORE = 5  # answers to each client that prove that it goes on


class Keys(NamedTuple):
    reader: str
    upload: str


@pytest.fixture
def old(lab: Lab) -> Iterator[Keys]:
    """A reader and an upload of this test's own, with a key each; the registry is as it was in the end."""
    kept = f"/run/{secrets.token_hex(4)}"
    on(lab.hub, "cp", "--archive", f"/etc/sie-hub/participants/{WHO}.yml", kept)
    registry = partial(on, lab.hub, PROGRAM, "registry")
    reader = json.loads(registry("reader", "key", "add", WHO, READER, "--id", "k1"))["key"]
    registry("upload", "set", WHO, UPLOAD, "--channel", CHANNEL)
    upload = json.loads(registry("upload", "key", "add", WHO, UPLOAD))["key"]
    yield Keys(reader, upload)
    on(lab.hub, "mv", kept, f"/etc/sie-hub/participants/{WHO}.yml")


@pytest.fixture
def handed_over(lab: Lab) -> Iterator[Path]:
    """Where the playbook leaves the new keys."""
    folder = deploy.handed_over(lab, lab.participant(WHO))
    yield folder / f"{WHO}-keys.vault.yml"
    for file in folder.glob(f"{WHO}-keys*"):
        file.unlink()


def _rotate(lab: Lab, what: str, *extra: str) -> int:
    """The playbook, for the two of this test alone; AssertionError if what it said holds a key."""
    answers = domains.state(lab) / "operator" / f"{WHO}.yml"
    values = (f"rotate={what}", f"participant={WHO}", f"reader={READER}", f"upload={UPLOAD}", *extra)
    words = [word for value in (f"@{answers}", *values) for word in ("-e", value)]
    return deploy.playbook(lab, "rotate_keys", None, [*words, "--diff", "-vv"])


def _opened(vault: Path) -> Keys:
    """The new keys, as the participant sees them with the passphrase it was told."""
    passphrase = vault.parent / f"{WHO}-passphrase.txt"
    content = yaml.safe_load(run(["ansible-vault", "view", "--vault-password-file", passphrase, vault]))
    return Keys(content["reader_keys"][READER], content["upload_keys"][UPLOAD])


def _go_on(*clients: AskingReader | LegacyUpload) -> None:
    for client in clients:
        least = client.welcome + MORE
        await_true(lambda c=client, n=least: c.welcome >= n, WITHIN, "more answers")  # type: ignore[misc]


def _taken(lab: Lab) -> int:
    """Containers of the upload that are stored."""
    told = json.loads(on(lab.hub, PROGRAM, "ledger", "--json"))
    return sum(one["stored"]["containers"] for one in told if one["source"] == UPLOAD)


def test_api_keys_are_rotated_in_use(lab: Lab, old: Keys, handed_over: Path) -> None:
    assert lab.hub.management is not None
    before = _taken(lab)
    with ExitStack() as clients:
        reader = AskingReader((lab.hub.management, SERVE_PORT), old.reader)
        clients.callback(reader.stop)
        upload = LegacyUpload((lab.hub.management, INGEST_PORT), old.upload)
        clients.callback(upload.stop)
        _go_on(reader, upload)

        assert _rotate(lab, "api_keys") > 0
        new = _opened(handed_over)
        assert _rotate(lab, "api_keys") == 0, "two at a time"
        assert _opened(handed_over) == new
        _go_on(reader, upload)
        with pytest.raises(CommandError, match=f"reader {READER} of {WHO} was used 0 minutes ago"):
            _rotate(lab, "api_keys_retire")

        reader.key, upload.key = new
        _go_on(reader, upload)
        assert _rotate(lab, "api_keys_retire", f"onboard_key_quiet_hours={QUIET_HOURS}") > 0
        await_true(lambda: reader.once(old.reader) != "", WITHIN, "the reader's old key refused")
        await_true(lambda: upload.once(old.upload) != "", WITHIN, "the upload's old key refused")
        assert reader.once(old.reader) == "403 Error: the API key is not valid\n"
        assert upload.once(old.upload).startswith("HTTP/1.1 401 ")
        _go_on(reader, upload)
    assert (reader.refused, upload.refused) == ([], [])
    sent = upload.welcome * CONTAINERS
    await_true(lambda: _taken(lab) - before >= sent, WITHIN, "all of it in the ledger")
    log = deploy.log_of(lab, "rotate_keys").read_text()
    assert not [one for one in (*old, *new) if one in log]
