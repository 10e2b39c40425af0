"""Entry of PID 1 in a sandbox container: finds the runner beside this file and hands over."""

import sys

sys.path.insert(0, "/opt/lap/lib")

from lap_sandbox.runner.supervisor import main

main()
