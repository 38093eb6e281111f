"""What every unit that talks to nats-server shows of its connection."""

from prometheus_client import CollectorRegistry, Gauge

from sie_hub.nats_link import Link


def show_link(metrics: CollectorRegistry, link: Link) -> None:
    """Add the connection's metrics to a unit's registry."""
    Gauge("sie_hub_nats_connected", "Whether nats-server is connected.", registry=metrics).set_function(
        lambda: float(link.connected)
    )
    Gauge("sie_hub_nats_reconnects", "Reconnections to nats-server.", registry=metrics).set_function(
        lambda: float(link.reconnects)
    )
