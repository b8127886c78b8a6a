"""A process in place of the dashboard's agent, on a node without a dashboard.

Ray starts an agent on each node: the dashboard's, or where that isn't installed a minimal one,
whose imports take a second of CPU time. The raylet waits until the agent has written which ports
it listens on, and ends if the agent does.

Ray runs this script with the options of its own agent, of which `--session-dir` is used. To start
fast it imports a few modules of the standard library only. tests/cluster/test_embedded.py checks
that Ray works with it.
"""

import os
import sys
import time

# Files in the session's folder that Ray 2.60 reads ports from, and the value that means "no port".
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
NONE = "-1"
# Seconds between two checks of whether the raylet still lives.
LOOK_SECONDS = 1.0


def main() -> None:
    """Write that there are no ports, and end when the raylet does."""
    raylet, node = int(os.environ["RAY_RAYLET_PID"]), os.environ["RAY_NODE_ID"]
    options = dict(word[2:].split("=", 1) for word in sys.argv if "=" in word)
    for name in PORTS:
        path = os.path.join(options["session-dir"], f"{name}_{node}")
        with open(path + ".new", "w") as file:
            file.write(NONE)
        os.replace(path + ".new", path)
    while _lives(raylet):
        time.sleep(LOOK_SECONDS)


def _lives(pid: int) -> bool:
    """Whether a process runs; a zombie counts as ended."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # the process runs, on a system without /proc
        return not os.path.exists("/proc/self")


if __name__ == "__main__":
    main()
