"""What stands for the dashboard's agent on a node that no dashboard will ever ask for anything.

Ray starts an agent on each node, of the dashboard or, where that was not installed, one that does
nothing but say so, for a second of processor time in imports. A raylet waits until the agent has
said on which ports it listens, and ends if the agent does.

Run as Ray runs its own: with its options, of which one counts here. Imports nothing but a little of
Python's own. tests/cluster/test_embedded.py sees a Ray that works with it.
"""

import os
import sys
import time

# Files in the session's folder in which Ray 2.60 looks for ports, and what it takes for none.
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
NONE = "-1"
# How often it looks whether its raylet still lives.
LOOK_SECONDS = 1.0


def main() -> None:
    """Say that nobody listens, and end with the raylet."""
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
    """Whether a process has not ended; one that has, and is still to be waited for, has."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except OSError:  # it is there, on a system without /proc
        return not os.path.exists("/proc/self")


if __name__ == "__main__":
    main()
