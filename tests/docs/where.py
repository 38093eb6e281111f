"""Where each command of the pages is executed: on a machine of the tests, or by a test that it names."""

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.docs import machine
from tests.docs.machine import Machine

Preparation = Callable[[Machine], None]

ON_A_MACHINE: Final[tuple[dict[str, Preparation], ...]] = (
    {
        "docs/handbook.md": machine.with_operator,
        "docs/guide/en/first-data.md": machine.with_what_is_handed_over,
    },
    {"docs/explanation/privacy.md": machine.with_traffic},
    {"docs/how-to/dnstap.md": machine.with_agent_settings},
    {"docs/how-to/participant-leaves.md": machine.with_a_sensor_to_remove},
    {"docs/how-to/stolen-key.md": machine.with_registry},
    {"docs/reference/agent.md": machine.with_traffic},
    {"docs/reference/identity.md": machine.with_a_request},
)
"""Pages whose blocks are typed, as they stand and in their order, on a machine of their own or, where a page
goes on from another, on that one's; and what is there before each. A block that another page repeats word by
word is not typed twice.
"""


class Elsewhere(NamedTuple):
    """A block that no machine of these tests can run: its page, what it begins with, and the test that runs
    its like.
    """

    page: str
    begins: str
    test: str


ELSEWHERE: Final = (
    Elsewhere(
        "docs/how-to/ca-off-the-hub.md",
        "mkdir -m 0700 ~/sie-ca",
        "molecule/default/tests/test_ca_off_the_hub.py::test_a_hub_without_the_ca_s_key",
    ),
    Elsewhere(
        "docs/how-to/back-up.md",
        "systemctl start sie-hub-backup",
        "molecule/default/tests/test_backup.py::test_a_backup_is_made_and_its_owners_alone",
    ),
    Elsewhere(
        "docs/how-to/back-up.md",
        "systemctl stop sie-hub-enrol",
        "molecule/default/tests/test_backup.py::test_what_is_restored_is_the_registry_that_was",
    ),
    Elsewhere(
        "docs/how-to/diagnose.md",
        "sie-agent diagnose",
        "molecule/default/tests/test_diagnose.py::test_a_sensor_that_is_well_has_no_broken_link",
    ),
    Elsewhere(
        "docs/how-to/dnstap.md",
        "echo '/run/sie-agent/dnstap.sock rw,' >> /etc/apparmor.d/local/usr.sbin.unbound",
        "molecule/dnstap/tests/test_dnstap.py::test_apparmor_would_permit_the_socket",
    ),
    Elsewhere(
        "docs/how-to/lab.md",
        "podman exec -it sie-lab-uni-b-sensor bash",
        "molecule/default/tests/test_topology.py::test_a_console_gives_what_podman_exec_does",
    ),
    Elsewhere(
        "docs/how-to/participant-leaves.md",
        "ansible-playbook sie_europe.passive_dns.offboard_participant",
        "molecule/offboard/tests/test_offboard.py::test_a_participant_leaves_and_the_other_stays",
    ),
    Elsewhere(
        "docs/reference/benchmark.md",
        "make bench",
        "tests/unit/test_bench.py::test_a_small_run_measures_the_sensor",
    ),
    Elsewhere(
        "docs/reference/query-api.md",
        "DNSDB_SERVER=https://hub.example:8445 DNSDB_API_KEY=KEY dnsdbq -u dnsdb2 -r '*.example.com' -l 20",
        "hub/tests/serve/test_dnsdbq.py::test_every_form_of_look_up",
    ),
    Elsewhere(
        "docs/tutorial.md",
        "export DNSDB_SERVER=https://198.51.100.98:8445",
        "molecule/default/tests/test_answers.py::test_found_by_owner_and_by_value",
    ),
    Elsewhere(
        "docs/tutorial.md",
        ".venv/bin/python molecule/topology/lab.py exec",
        "molecule/span/tests/test_span.py::test_without_the_mirror_the_sensors_count_stays_still",
    ),
)

PLAYBOOKS: Final = {
    "hub": "molecule/default/converge.yml",
    "onboard_participant": "molecule/default/converge.yml",
    "configure_my_sensor": "molecule/default/converge.yml",
    "offboard_participant": "molecule/offboard/tests/test_offboard.py",
    "renewals": "molecule/default/tests/test_renewals.py",
    "diagnose": "molecule/default/tests/test_diagnose.py",
    "upgrade": "molecule/upgrade_rollback/tests/test_upgrade_rollback.py",
    "rollback": "molecule/upgrade_rollback/tests/test_upgrade_rollback.py",
    "sign_request": "molecule/default/tests/test_by_hand.py",
    "rotate_keys": "molecule/rotation/tests/test_rotation.py",
}
"""What runs each playbook on hosts; a page's command is checked against the playbook."""

TARGETS: Final = {
    "demo": "tests/unit/test_demo.py",
    "lab": "molecule/default/converge.yml",
    "test": "Makefile",
}
"""What runs the like of a target of make; `test` is what continuous integration runs."""

PLACEHOLDERS: Final[dict[str, Callable[[Machine], str]]] = {
    "SHA256:…": lambda _on: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
    "isp_a/ns1:TOKEN": lambda on: f"isp_a/ns1:{on.token}",
}
"""What a reader puts something of his own in the place of."""

NOT_EVERYWHERE: Final = ("nmsgtool",)
"""Programs of others that no package brings; the block that needs one is left out where it is not."""
