"""What ends soon: agreements, sensors' certificates, and what the hub itself has of certificates."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final

from sie_core import limits
from sie_core.settings import Config
from sie_hub.enrol.authority import load_certificates
from sie_hub.enrol.renewals import Renewal
from sie_hub.enrol.tokens import Token
from sie_hub.registry import Agreement, Participant

DAYS: Final = 60
"""How long before its end an agreement, or a certificate of the hub itself, is due."""

SENSOR_DAYS: Final = limits.SENSOR_CERTIFICATE_DAYS // 3 - 2
"""The same for a sensor's certificate. An agent renews when a third of its life is left, so that with two
days less it has been failing for two."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends: `what` it is, whose, when, and what to do about it."""

    what: str
    whose: str
    at: datetime
    remedy: str

    def days(self, now: datetime) -> int:
        """Whole days that are left; negative once it has ended."""
        return (self.at - now) // timedelta(days=1)

    def public(self, now: datetime) -> dict[str, Any]:
        """What `sie-hub due --json` shows."""
        return {
            "what": self.what,
            "whose": self.whose,
            "at": self.at.isoformat(),
            "days": self.days(now),
            "remedy": self.remedy,
        }


def agreements(participants: Iterable[Participant], today: date) -> Iterator[Ending]:
    """The end of each agreement's term that has not been terminated before today.

    One that renews itself has an end too: the last day on which somebody may want to end it.
    """
    for participant in participants:
        agreement = participant.agreement
        if agreement.terminated is not None:
            if agreement.terminated > today:
                yield Ending(
                    "agreement",
                    participant.name,
                    _midnight(agreement.terminated),
                    "it is terminated: see that the participant's sensors stop",
                )
            continue
        if agreement.renews:
            yield Ending(
                "term",
                participant.name,
                _midnight(_term_end(agreement, today)),
                "it renews itself unless ended",
            )
        else:
            end = agreement.signed + timedelta(days=agreement.term_days)
            yield Ending("agreement", participant.name, _midnight(end), "sign it again, or let it end")


def sensor_certificates(
    participants: Iterable[Participant],
    tokens: Iterable[Token],
    renewals: Iterable[Renewal],
    today: date,
) -> Iterator[Ending]:
    """The end of the last certificate that enrol issued to each sensor that may send.

    Certificates that were signed by hand are not known here.
    """
    last: dict[tuple[str, str], datetime] = {}
    records: list[Token | Renewal] = [*tokens, *renewals]
    for record in records:
        key = record.participant, record.sensor
        for one in record.issued:
            last[key] = max(last.get(key, one.not_after), one.not_after)
    for participant in participants:
        if participant.agreement.refusal(today) is not None:
            continue
        for sensor in participant.sensors.values():
            at = last.get((participant.name, sensor.name))
            if at is not None and sensor.revoked is None:
                yield Ending(
                    "certificate",
                    f"{participant.name}/{sensor.name}",
                    at,
                    "it renews itself with ten days left: ask why `sie-agent status` says that it did not",
                )


def own_files(config: Config) -> dict[str, Path]:
    """The hub's own certificates, by what each is for.

    Without the CA's key enrol does not run, and serve may do without a certificate on loopback.
    """
    names = ("ca", *(() if config["ca.elsewhere"] else ("enrol",)), "ingest", "serve")
    files = {name: config[f"{name}.certificate"] for name in names}
    return {name: path for name, path in files.items() if path is not None}


def own_certificates(files: Mapping[str, Path]) -> Iterator[Ending]:
    """The end of each of the hub's own certificates, by what it is for. Raises AuthorityError."""
    for name, path in files.items():
        (certificate, *_more) = load_certificates(path)
        remedy = (
            "run the playbook rotate_keys with rotate=ca"
            if name == "ca"
            else "run the playbook hub, or replace the certificate that you gave it"
        )
        yield Ending("hub's certificate", name, certificate.not_valid_after_utc, remedy)


def _term_end(agreement: Agreement, today: date) -> date:
    """The end of the term that is running on a day; of the first one before it has begun."""
    terms = max(1, -(-((today - agreement.signed).days + 1) // agreement.term_days))
    return agreement.signed + timedelta(days=terms * agreement.term_days)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
