"""The addresses that the word `host` stands for: those of this host that others can reach."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from sie_agent.discovery import host_addresses, resolver_addresses
from sie_agent.errors import AgentError
from tests.netns import Namespace, namespace

rooted = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root: run the tests as root"),
]


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def give(host: Namespace, address: str, interface: str, *more: str) -> None:
    subprocess.run(["ip", "-n", host.name, "address", "add", address, "dev", interface, *more], check=True)


def test_a_list_without_the_word_stays_as_it_is() -> None:
    assert resolver_addresses(["192.0.2.53", "2001:db8::/48"]) == ("192.0.2.53", "2001:db8::/48")


class TestInANamespace:
    pytestmark = rooted

    def test_global_addresses_are_found_and_no_others(self, host: Namespace) -> None:
        # The namespace comes with IPv6 off, so that nothing but a test's frames is on its wire.
        for interface in (host.inner, "lo"):
            subprocess.run(
                host.command("sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=0"), check=True
            )
        give(host, "192.0.2.53/24", host.inner)
        give(host, "192.0.2.54/24", host.inner)
        give(host, "2001:db8::53/64", host.inner, "nodad")
        give(host, "169.254.7.7/16", host.inner)
        give(host, "198.51.100.53/32", "lo")  # an anycast service's address
        # On a link between two points the address of the peer is listed as well.
        give(host, "203.0.113.1", host.outer, "peer", "203.0.113.2")
        found = host.inside(host_addresses)
        assert found == ("192.0.2.53", "192.0.2.54", "198.51.100.53", "203.0.113.1", "2001:db8::53")

    def test_the_word_is_replaced_where_it_stands_and_nothing_is_listed_twice(self, host: Namespace) -> None:
        give(host, "192.0.2.53/24", host.inner)
        listed = ["198.51.100.0/24", "host", "192.0.2.53"]
        assert host.inside(lambda: resolver_addresses(listed)) == ("198.51.100.0/24", "192.0.2.53")

    def test_a_host_without_addresses_is_refused(self, host: Namespace) -> None:
        with pytest.raises(AgentError, match="host stands for the global addresses of this host, and it has"):
            host.inside(lambda: resolver_addresses(["host"]))
