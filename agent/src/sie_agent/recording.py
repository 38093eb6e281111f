"""The recorder that a configuration asks for."""

from sie_agent.config import AgentConfig
from sie_agent.errors import AgentError
from sie_core._native import NativeError, Recorder


def recorder_for(config: AgentConfig, codec: str, resolvers: tuple[str, ...]) -> Recorder:
    """A recorder with the configuration's settings, for these resolvers. Raises AgentError."""
    try:
        return Recorder(
            resolvers,
            keep_query_packets=config.keep_query_packets,
            query_timeout=config.query_timeout,
            table_max=config.table_max,
            clear_resolver_address=config.clear_resolver_address,
            container_bytes=config.container_bytes,
            flush_interval=config.flush_interval,
            codec=codec,
        )
    except NativeError as error:
        raise AgentError(f"the recorder does not take this configuration: {error}") from error
