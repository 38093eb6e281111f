"""`sie-hub` with a tenth of its patience: the program of tests about clients that take their time."""

import sys
from importlib import import_module

from sie_core import limits

SHARE = 10
"""By how much every limit below is divided."""

SHARED_LIMITS = ("HEARTBEAT", "GREETING_TIMEOUT")
LIMITS = {
    "sie_hub.tls": ("HANDSHAKE_TIMEOUT",),
    "sie_hub.connections": ("IDLE_TIMEOUT",),
    "sie_hub.ingest.session": ("SEND_TIMEOUT",),
}


def main() -> int:
    """Shorten what is shared before anybody takes it for a default, then the rest, then run."""
    for name in SHARED_LIMITS:
        setattr(limits, name, getattr(limits, name) / SHARE)
    for module_name, names in LIMITS.items():
        module = import_module(module_name)
        for name in names:
            setattr(module, name, getattr(module, name) / SHARE)
    result: int = import_module("sie_hub.cli").main()
    return result


if __name__ == "__main__":
    sys.exit(main())
