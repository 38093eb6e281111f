"""The sensor measured beside its peers, on generated traffic whose truth is known.

    python -m tests.bench                      a million packets, five runs, live capture if root
    python -m tests.bench --packets 20000 --runs 1 --no-live

The table that it ends with names each bar and what was measured against it.
"""
