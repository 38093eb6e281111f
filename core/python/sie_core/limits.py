"""Limits that agent and hub share, each with its arithmetic.

Octets unless a name says otherwise; times in seconds unless a name says otherwise.
"""

from typing import Final

# --- containers -----------------------------------------------------------------------------------------

CONTAINER_BYTES: Final = 512 << 10
"""What a sensor fills a container to by default: some 2,000 transactions of 250 octets before compression."""

MAX_INFLATED: Final = 16 << 20
"""What a compressed container may inflate to: 32 times our own size, and 8 times the 2 MiB that go-nmsg
writers reach."""

# --- trampoline -----------------------------------------------------------------------------------------

MAX_MESSAGE: Final = 32 << 20
"""The largest WebSocket message taken: the receive limit of the deployed sielink library, so that what it
may send fits."""

MAX_PAYLOAD: Final = 4 << 20
"""The data of one version-2 payload: eight containers of the default size, and half of the 8 MiB that the
hub's message server takes in one message."""

MAX_CONTROL: Final = 64 << 10
"""A message beside the data of its payload, which is all of one that carries no container: every one from a
hub, every one before a version is agreed, and the accounting record with 1 KiB around it. A topology of
10,000 channels takes 30 KiB. A peer's acknowledgements cost memory while they are decoded, 5,000 of 13 octets
at most."""

MAX_DATA_MESSAGE: Final = MAX_PAYLOAD + MAX_CONTROL
"""The largest message of a version-2 sensor: one payload and the fields around it, which need 100 octets."""

WINDOW_PAYLOADS: Final = 32
"""Unacknowledged payloads in flight. At 512 KiB each and 200 ms of round trip: 32 x 512 KiB / 0.2 s = 80
MiB/s, a thousand times the 5 MB a minute of an extremely busy resolver, so that a backlog of a day drains
in minutes."""

WINDOW_BYTES: Final = WINDOW_PAYLOADS * CONTAINER_BYTES
"""Unacknowledged octets in flight (16 MiB). One payload more may be started below it, so memory is
bounded by this and one MAX_PAYLOAD."""

HEARTBEAT: Final = 10.0
"""How often each side of version 2 beats. Silence is noticed after 1.5 times that, 15 s; a container of
512 KiB passes in that time on any link above 512 KiB / 15 s = 280 kbit/s."""

HEARTBEAT_GRACE: Final = 1.5
"""How many of the peer's own announced intervals may pass without a beat (sielink's factor)."""

MAX_HEARTBEAT: Final = 600.0
"""The longest interval believed: a peer that announces more is still given up after 1.5 x 600 s = 15
minutes."""

GREETING_TIMEOUT: Final = 30.0
"""From the connection to the end of the greeting: one round trip each for configuration and position, and
a lookup in the hub's message server, with room for a link of seconds."""

CLOSING_TIMEOUT: Final = 30.0
"""From the first Shutdown or Finished to the end: what is in flight drains (16 MiB in 30 s is 4.5
Mbit/s), and what does not is sent again in the next session."""

MAX_SEQUENCE: Final = (1 << 63) - 1
"""The highest payload sequence: what a signed 64-bit column, a JSON reader and a message server's header
all hold."""

MAX_CHANNEL: Final = 65535
"""The highest channel number: 16 bits, as the other protocols of this family carry it."""

MAX_ALERT_TEXT: Final = 1024
"""Characters of an alert that are sent, kept or logged: a few sentences."""

MAX_AGENT_VERSION: Final = 64
"""Characters of the program version in a hello."""

MAX_ACCOUNTING: Final = MAX_CONTROL - (1 << 10)
"""An accounting record: some 1,000 counters of 60 octets."""

# --- identity -------------------------------------------------------------------------------------------

SENSOR_CERTIFICATE_DAYS: Final = 30
"""A sensor's certificate. It is renewed at two thirds, so a lost hub has ten days to come back."""

CERTIFICATE_GRACE_DAYS: Final = 30
"""How long after its end a sensor's certificate may still be renewed, and do nothing else."""

SERVER_CERTIFICATE_DAYS: Final = 365
"""A hub's server certificate: made again by the hub's play when less than a third is left."""

CA_CERTIFICATE_DAYS: Final = 3653
"""The issuing CA: ten years, leap days included."""

CLOCK_SKEW: Final = 3600
"""How far a certificate is dated back, so that a peer whose clock is slow by up to an hour already takes
it."""

MAX_REQUEST: Final = 16 << 10
"""A certificate request, base64 included. One with a P-256 key takes 0.5 KiB; what people add is ignored
anyway."""

TOKEN_BYTES: Final = 32
"""Entropy of an enrolment token: 256 bits, so that its plain SHA-256 may be stored."""
