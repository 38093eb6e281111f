"""What `sie-hub diagnose` may find broken, in the order from the host to the readers: the hub's part of
docs/reference/failures.md.
"""

from typing import Final

from sie_core.diagnosis import Failure, by_slug

HUB_CONFIG_INVALID: Final = Failure(
    "hub-config-invalid",
    "The hub's configuration is missing or has mistakes, so that its programs cannot start.",
    "Run `sie-hub check-config`, which lists every mistake, and the playbook hub again.",
)
NATS_DOWN: Final = Failure(
    "nats-down",
    "The message server does not run, so that nothing is taken in, refined or stored.",
    "Run `systemctl start nats-server` and read `journalctl -u nats-server`: most often its disk is full.",
)
UNIT_STOPPED: Final = Failure(
    "unit-stopped",
    "A program of the hub does not run.",
    "Start the unit that the evidence names with `systemctl start`, and read its journal.",
)
STREAMS_DISK_FULL: Final = Failure(
    "streams-disk-full",
    "The disk of the message server has no room, so that sensors get no acknowledgement.",
    "Make room on that file system; sensors keep what they have and send it then.",
)
STORE_DISK_FULL: Final = Failure(
    "store-disk-full",
    "The disk of the store has no room, so that readers get nothing new.",
    "Make room on that file system, or lower `hub_retention_days`.",
)
HUB_CERTIFICATE_ENDED: Final = Failure(
    "hub-certificate-ended",
    "A certificate of the hub itself has expired or cannot be read, so that its peers turn it down.",
    "Run the playbook hub, which makes its certificates anew; for the CA, rotate_keys with `rotate=ca`.",
)
REGISTRY_BROKEN: Final = Failure(
    "registry-broken",
    "A file of the registry cannot be read, so that what it says of a participant stands still.",
    "Read `journalctl -u sie-hub-ingest`, which names the file and its mistakes, and correct it.",
)
INGEST_CUT_OFF: Final = Failure(
    "ingest-cut-off",
    "ingest runs without its message server, so that sensors are not acknowledged.",
    "Look at nats-server and at the password of the user ingest; ingest connects again by itself.",
)
REFINE_BEHIND: Final = Failure(
    "refine-behind",
    "refine does not move while containers wait for it.",
    "Read `journalctl -u sie-hub-refine`; restart it, and it goes on where the stream SIE ends.",
)
SERVE_BEHIND: Final = Failure(
    "serve-behind",
    "serve does not store while records wait for it.",
    "Read `journalctl -u sie-hub-serve`; restart it, and it goes on where its store ends.",
)
PARTICIPANT_SILENT: Final = Failure(
    "participant-silent",
    "Sensors that may send have delivered nothing for an hour.",
    "Ask their participants to run the playbook diagnose; `sie-hub ledger` says what each has seen.",
)

FAILURES: Final = by_slug(value for value in dict(globals()).values() if isinstance(value, Failure))
"""All of them, by slug, in their order."""
