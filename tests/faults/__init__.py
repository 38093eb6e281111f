"""Faults between sensors and hub, injected on real network namespaces into the real programs.

    sensor ── line ── hub        three namespaces: sie-agent; a router on which faults are imposed;
    twin  ──┘                    nats-server, ingest and enrol

Each fault is a coroutine that makes such a place, sends generated traffic past the sensor, imposes its fault,
proves that it was in force, lifts it, and compares what is in the stream RAW with what the traffic's maker
and the sensor say. `python -m tests.faults` writes docs/reference/faults.md; the tests run the same.
"""
