"""Every error that the agent raises on purpose, below `sie_core.errors.SieError`.

    AgentError               what ends a command with one sentence on stderr; `exit_code` is the process's
    ├── UsageError           the command line asks for something that makes no sense (exit code 2)
    ├── SpoolError           the spool cannot be opened, read or written
    └── SourceError          packets cannot be had from an interface or a file

The text of each is one sentence for the operator: the thing, the place, the remedy.
"""

from sie_core.errors import SieError


class AgentError(SieError):
    """Ends a command with one sentence."""

    exit_code = 1


class UsageError(AgentError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class SpoolError(AgentError):
    """The spool cannot be opened, read or written."""


class SourceError(AgentError):
    """Packets cannot be had from an interface or a file."""
