"""The configuration that the hub role writes: its defaults are the program's, and what is chosen arrives."""

from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from sie_core.settings import Config
from sie_hub.config import TABLE, load_config

ROLE = Path(__file__).parents[2] / "collections/ansible_collections/sie_europe/passive_dns/roles/hub"
REQUIRED = {
    "hub_exchange": "lab.example",
    "hub_release": "/nowhere/hub.tar",
    "hub_names": ["hub.example"],
    "hub_listen_addresses": ["198.51.100.10", "2001:db8::10"],
    "ansible_managed": "Written by a test.",
}
OF_THE_PLACE = ("exchange", "enrol.listen", "ingest.listen", "serve.listen", "serve.certificate", "serve.key")
OF_THE_ROLE = ("enrol.metrics",)  # a port of its own for each program, also of a hub older than the default


def written(directory: Path, **chosen: object) -> Config:
    """The file that the role writes with these variables, as the programs read it."""
    loader = DataLoader()
    variables: dict[str, object] = {}
    for file in ("defaults/main.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE / file), trusted_as_template=True)
    variables |= {**REQUIRED, **chosen}
    template = trust_as_template((ROLE / "templates/hub.yml.j2").read_text())
    out = directory / "hub.yml"
    out.write_text(Templar(loader=loader, variables=variables).template(template))
    return load_config(out)


def test_the_roles_defaults_are_the_programs(tmp_path: Path) -> None:
    config = written(tmp_path)
    least = tmp_path / "least.yml"
    least.write_text("exchange: lab.example\n")
    by_itself = load_config(least)
    apart = {key for key, _ in TABLE.rows() if config[key] != by_itself[key]}
    assert apart <= {*OF_THE_PLACE, *OF_THE_ROLE}
    listens = [str(address) for address in config["ingest.listen"]]
    assert listens == ["198.51.100.10:8443", "[2001:db8::10]:8443"]


def test_what_a_source_may_deliver_arrives(tmp_path: Path) -> None:
    assert written(tmp_path, hub_source_quota_bytes=1 << 40)["ingest.source_quota"] == 1 << 40


def test_what_is_chosen_for_the_drop_arrives(tmp_path: Path) -> None:
    config = written(tmp_path, hub_drop_dir="/srv/sie-drop", hub_drop_quota_bytes=1 << 30)
    assert (config["ingest.drop"], config["ingest.drop_quota"]) == (Path("/srv/sie-drop"), 1 << 30)
