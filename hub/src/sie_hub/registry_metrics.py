"""What every unit that reads the registry shows of it."""

from prometheus_client import CollectorRegistry, Gauge

from sie_hub.registry import Registry


def show_registry(metrics: CollectorRegistry, registry: Registry) -> None:
    """Add the registry's metrics to those of a unit."""
    Gauge(
        "sie_hub_registry_broken_files", "Registry files that cannot be read.", registry=metrics
    ).set_function(lambda: float(registry.broken))
    Gauge(
        "sie_hub_registry_unread_seconds",
        "For how long the registry or a file of it could not be read; 0 if all is well.",
        registry=metrics,
    ).set_function(lambda: registry.unread_seconds)
