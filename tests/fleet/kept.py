"""What a test changes of a host and puts back, so that the tests after it find the host as it was."""

import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from sie_lab.hosts import on
from sie_lab.topology import Host


@contextmanager
def kept(host: Host, *paths: str) -> Iterator[None]:
    """Files and folders of a host as they are now, also afterwards; what was not there is removed again."""
    archive = f"/run/{secrets.token_hex(4)}.tar"
    all_of_it = shlex.join(paths)
    on(host, "sh", "-euc", f"umask 077; tar -cPf {archive} $(ls -d {all_of_it} 2>/dev/null)")
    try:
        yield
    finally:
        on(host, "sh", "-euc", f"rm -rf {all_of_it}; tar -xPf {archive}; rm {archive}")
