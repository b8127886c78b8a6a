"""Hosts within this machine: each has its own address, processes, files and sshd.

A host is a tree of processes in network, process, mount, IPC and UTS namespaces of its own. A
bridge joins the hosts and this machine; nothing beyond can be reached from them. Of the
machine's files they see what is installed, and one folder that all of them share; their home,
/tmp, /run and /dev/shm are their own, in memory.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INIT = Path(__file__).with_name("host_init.sh")
HOME = "/srv/home"
SHARED = "/srv/shared"
PACKAGES = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "rsync": "rsync",
}
# All bridges and links of ours are called so, then the id of the process that made them.
PREFIX = "mhost"
UNSHARE = [
    *("unshare", "--net", "--pid", "--mount", "--ipc", "--uts"),
    *("--fork", "--mount-proc", "--kill-child"),
]
SSHD_CONFIG = """\
HostKey /srv/ssh/host_key
AuthorizedKeysFile /srv/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
"""
DEADLINE = 60.0


def missing() -> str:
    """Why hosts can't be made here; nothing if they can."""
    absent = sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)})
    if absent:
        return f"not installed: {', '.join(absent)} (as root: make host-packages)"
    trial = f"{PREFIX}{os.getpid()}t"
    attempts = (
        [*UNSHARE, "true"],
        ["ip", "link", "add", trial, "type", "veth", "peer", "name", f"{trial}p"],
        ["ip", "link", "delete", trial],
        ["ip", "link", "add", trial, "type", "bridge"],
        ["ip", "link", "delete", trial],
    )
    for command in attempts:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"hosts need root's rights over namespaces and links: {done.stderr.strip()}"
    return ""


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes:
        name: its hostname.
        address: its IP address.
        link: this machine's end of its cable.
        keeper: the process that ends with this one, and the host with it.
    """

    name: str
    address: str
    link: str
    keeper: subprocess.Popen[bytes]

    def processes(self) -> list[str]:
        """The command lines of all that runs on it."""
        mine = _network_of(self.keeper.pid)
        found = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return [
            _command_line(pid)
            for pid in found
            if pid != self.keeper.pid and _network_of(pid) == mine
        ]

    def cut(self) -> None:
        """Pull the cable: nothing goes in or out, and nobody is told."""
        _do("ip", "link", "set", self.link, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _do("ip", "link", "set", self.link, "up")


class Hosts:
    """A few hosts and the network between them.

    They end with this process, however it ends. What can remain then is a bridge with
    nothing on it; the next one to make hosts takes it away.

    Args:
        names: of the hosts.
        folder: for their descriptions and keys; `folder / "shared"` is what they share.
    """

    def __init__(self, names: Sequence[str], folder: Path):
        _remove_leftovers()
        self.shared, self.key = folder / "shared", folder / "id_ed25519"
        self._folder, self._network = folder, _free_network()
        self._bridge = f"{PREFIX}{os.getpid()}"
        self._hosts: list[Host] = []
        self.shared.mkdir(parents=True)
        _make_key(self.key)
        try:
            self._make_bridge()
            for number in range(len(names)):
                self._describe(number, names)
                self._hosts.append(self._start(number, names[number]))
            for number, host in enumerate(self):
                self._plug_in(number, host)
            for host in self:
                self._until(host, lambda host=host: _serves_ssh(host.address))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]

    def close(self) -> None:
        """End all that runs on them, and take the network away."""
        for host in self:
            host.keeper.kill()
        for host in self:
            host.keeper.communicate(timeout=DEADLINE)
        # A host's end of its cable goes with it, and this end with that, but in a while.
        for link in (*(host.link for host in self), self._bridge):
            subprocess.run(["ip", "link", "delete", link], capture_output=True)

    def _make_bridge(self) -> None:
        _do("ip", "link", "add", self._bridge, "type", "bridge")
        _do("ip", "address", "add", f"{self._network[1]}/24", "dev", self._bridge)
        _do("ip", "link", "set", self._bridge, "up")

    def _address(self, number: int) -> str:
        return str(self._network[10 + number])

    def _describe(self, number: int, names: Sequence[str]) -> None:
        """Write what makes this host another one than this machine."""
        described = self._folder / names[number]
        etc, ssh = described / "etc", described / "ssh"
        etc.mkdir(parents=True)
        ssh.mkdir()
        known = [f"{self._address(i)} {name}" for i, name in enumerate(names)]
        _write(etc / "hosts", "127.0.0.1 localhost", *known)
        _write(etc / "resolv.conf")
        users = Path("/etc/passwd").read_text().splitlines()
        others = [user for user in users if not user.startswith("root:")]
        _write(etc / "passwd", f"root:x:0:0::{HOME}:/bin/bash", *others)
        _write(etc / "shadow", "root:*:20000:0:99999:7:::")
        _make_key(ssh / "host_key")
        _write(ssh / "sshd_config", SSHD_CONFIG)
        shutil.copy(self.key.with_suffix(".pub"), ssh / "authorized_keys")
        _write(
            described / "network",
            f"name={names[number]}",
            f"link={self._bridge}p{number}",
            f"address={self._address(number)}/24",
            f"gateway={self._network[1]}",
        )

    def _start(self, number: int, name: str) -> Host:
        described = self._folder / name
        with (described / "init.log").open("w") as log:
            keeper = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", *UNSHARE),
                    *("bash", INIT, described, self.shared),
                    *(sysconfig.get_path("purelib"), sys.executable, ROOT / "requirements.lock"),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        return Host(name, self._address(number), f"{self._bridge}h{number}", keeper)

    def _plug_in(self, number: int, host: Host) -> None:
        there, pid = f"{self._bridge}p{number}", host.keeper.pid
        self._until(host, lambda: _network_of(pid) not in ("", _network_of(os.getpid())))
        _do("ip", "link", "add", host.link, "type", "veth", "peer", "name", there)
        _do("ip", "link", "set", there, "netns", str(pid))
        _do("ip", "link", "set", host.link, "master", self._bridge, "up")
        assert host.keeper.stdin is not None
        host.keeper.stdin.write(b"plugged in\n")
        host.keeper.stdin.flush()

    def _until(self, host: Host, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            ended = host.keeper.poll() is not None
            if ended or time.monotonic() > deadline:
                log = (self._folder / host.name / "init.log").read_text()
                raise RuntimeError(f"{host.name} {'ended' if ended else 'is not up'}: {log}")
            time.sleep(0.05)


def _remove_leftovers() -> None:
    """Take away bridges whose makers were killed; their hosts went with them."""
    shown = subprocess.run(["ip", "-json", "link", "show", "type", "bridge"], capture_output=True)
    for link in json.loads(shown.stdout or "[]"):
        name = link.get("ifname", "")
        maker = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and maker.isdigit() and not Path("/proc", maker).exists():
            _do("ip", "link", "delete", name)


def _free_network() -> ipaddress.IPv4Network:
    """A private network of 256 addresses to which this machine has no route of its own."""
    shown = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, check=True)
    routes = [route["dst"] for route in json.loads(shown.stdout) if route["dst"] != "default"]
    taken = [ipaddress.IPv4Network(route, strict=False) for route in routes]
    for network in ipaddress.IPv4Network("10.213.0.0/16").subnets(new_prefix=24):
        if not any(network.overlaps(other) for other in taken):
            return network
    raise RuntimeError("no free network in 10.213.0.0/16")


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))


def _write(path: Path, *lines: str) -> None:
    path.write_text("".join(line + "\n" for line in lines))


def _serves_ssh(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _network_of(pid: int) -> str:
    """Names the network namespace of a process; nothing if it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
