"""In the place of get-pip.py, which ansible-test would fetch from a host that is no package index.

ansible-test runs it in an empty virtual environment with pip's options and requirements as arguments (see
`make sanity`). The pip that comes with Python installs the one that is asked for.
"""

import subprocess
import sys

wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.check_call([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL)
subprocess.check_call([sys.executable, "-m", "pip", "install", *wanted])
