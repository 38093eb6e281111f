#!/usr/bin/env python3
"""The lab: real hosts on this machine for the playbooks to run against. `lab.py --help` lists commands."""

import sys

from sie_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
