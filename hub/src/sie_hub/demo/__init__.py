"""A whole exchange on loopback, for somebody who wants to see it work: one hub, one sensor, one capture file.

place      the directory: certificates, registry, configurations, secrets
programs   the child processes: nats-server, the four units, the agent
progress   what the person at the terminal sees
run        the story, from an empty directory to an answered question
"""
