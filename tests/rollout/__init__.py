"""A whole estate at once: `configure_my_sensor` over a hundred simulated hosts, and the time that each takes.

    make bench-fleet

The hub is a host of the lab, put in place by the product's own playbook, and its operator onboards the
participant there; the participant's playbook comes from its bundle and reaches each host by SSH. What is
simulated, `estate` says.
"""
