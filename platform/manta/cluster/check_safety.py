"""Is the cluster closed to others: token, dashboard, ports, and no secret in the file?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.cluster.cluster_file import ClusterPlan, NodeProvider
from manta.cluster.findings import Finding, failed, ok, warning

STARTS = ("ray start", "start_worker.sh")  # a command with one of these starts Ray
TOKEN = "~/.ray/auth_token"
MAKE_TOKEN = "ray get-auth-token --generate > /dev/null"
ANYONE = ("0.0.0.0", "::")
SSH = 22

SECRETS = {
    "an AWS access key": re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a W&B key": re.compile(r"\bwandb_v1_[A-Za-z0-9_]{20,}"),
    # NAME=value or name: value; a reference ($NAME, a path, another key) is no secret.
    "a secret": re.compile(
        r"(?i)[\w-]*(?:api_?key|secret_?(?:access_?)?key|auth_token|password|passwd)"
        r"[\"']?\s*[=:]\s*[\"']?(?![$~/<{\"'\s.])[\w+/=.-]{8,}"
    ),
}
SECRET_NAME = re.compile(r"(?i)(key|token|secret|password)$")


def check_safety(plan: ClusterPlan) -> Iterator[Finding]:
    """All checks of what could let others into the cluster."""
    yield from _secrets(plan)
    yield from _kubernetes_token(plan) if not plan.launched else _token(plan)
    yield from _dashboard(plan)
    yield from _ports(plan)


def _secrets(plan: ClusterPlan) -> Iterator[Finding]:
    lines = [
        (number, what)
        for number, line in enumerate(plan.text.splitlines(), start=1)
        for what, pattern in SECRETS.items()
        if pattern.search(line)
    ]
    seen = set()
    for number, what in lines:
        if number not in seen:  # SECRETS has the most exact names first
            seen.add(number)
            yield failed(
                "secrets",
                f"{plan.path.name}:{number}: {what}",  # its kind; the secret is never printed
                "remove it from the file, and revoke it if the file was ever shared; jobs get keys "
                "in their environment, nodes have roles",
            )
    for item in plan.data.get("objects", []):
        if item.get("kind") == "Secret" and (item.get("data") or item.get("stringData")):
            seen.add(0)
            yield failed(
                "secrets",
                f"{plan.path.name} has a Secret with its values",
                "make the Secret with `kubectl create secret`, and remove it from the file",
            )
    for name in _plain_variables(plan.data.get("objects", [])):
        seen.add(0)
        yield failed(
            "secrets",
            f"{plan.path.name}: the value of the variable {name} stands in the file",
            "take the value from a Secret: valueFrom, or envFrom with secretRef",
        )
    if not seen:
        yield ok("secrets", "none in the file")


def _plain_variables(content: Any) -> Iterator[str]:
    """Names of secret environment variables whose value stands in the file, in any container."""
    if isinstance(content, dict):
        name = str(content.get("name", ""))
        if content.get("value") and SECRET_NAME.search(name):
            yield name
        content = list(content.values())
    for item in content if isinstance(content, list) else ():
        yield from _plain_variables(item)


def _token(plan: ClusterPlan) -> Iterator[Finding]:
    text = "\n".join(plan.start)
    starts = [command for command in plan.start if any(start in command for start in STARTS)]
    if "RAY_AUTH_MODE=disabled" in text:
        yield failed(
            "token",
            "token authentication is off: anyone who can connect to Ray can run code on it",
            "start Ray with RAY_AUTH_MODE=token",
        )
        return
    open_ = [c for c in starts if "RAY_AUTH_MODE=token" not in c and "cluster/env.sh" not in c]
    if open_:
        yield failed(
            "token",
            "Ray is started without token authentication: anyone who can connect to it can run "
            "code on it",
            "begin the start commands with `. ~/manta/cluster/env.sh;`, or RAY_AUTH_MODE=token",
        )
        return
    if not any(there.endswith(".ray/auth_token") for there in plan.mounts):
        yield failed(
            "token",
            "the nodes don't get the token, and Ray doesn't start without it",
            f'add to file_mounts: "{TOKEN}": {TOKEN}',
        )
        return
    yield _token_here()


def _token_here() -> Finding:
    path = Path(TOKEN).expanduser()
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        return failed("token", f"this machine has no token in {TOKEN}", f"make one: {MAKE_TOKEN}")
    if path.stat().st_mode & 0o077:
        return warning(
            "token", f"other users of this machine can read {TOKEN}", f"run: chmod 600 {TOKEN}"
        )
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode != "token":
        return warning(
            "token",
            f"on for the cluster, but RAY_AUTH_MODE is {mode or 'not set'} on this machine",
            "export RAY_AUTH_MODE=token, or jobs can't be submitted from here",
        )
    return ok("token", "on, and the nodes get it")


def _kubernetes_token(plan: ClusterPlan) -> Iterator[Finding]:
    if (plan.data["spec"].get("authOptions") or {}).get("mode") != "token":
        yield failed(
            "token",
            "token authentication is off: anyone who can connect to a pod can run code on it",
            "add to the RayCluster's spec: authOptions: {mode: token}",
        )
    else:
        yield ok("token", "on: the operator makes the token and gives it to the pods")


def _dashboard(plan: ClusterPlan) -> Iterator[Finding]:
    if not plan.launched:
        head = plan.data["spec"].get("headGroupSpec") or {}
        service = head.get("serviceType", "ClusterIP")
        if service != "ClusterIP" or head.get("enableIngress"):
            yield failed(
                "dashboard",
                "open to connections from outside the cluster: "
                f"{'enableIngress' if head.get('enableIngress') else f'serviceType: {service}'}",
                "set serviceType: ClusterIP without enableIngress, and open the dashboard with "
                "kubectl port-forward",
            )
        else:
            yield ok("dashboard", "inside the cluster only; open it with kubectl port-forward")
        return
    hosts = re.findall(r"--dashboard-host[= ]\s*([^\s;]+)", "\n".join(plan.start))
    if any(host.strip("'\"") in ANYONE for host in hosts):
        yield failed(
            "dashboard",
            "open to connections from anywhere: --dashboard-host=0.0.0.0",
            f"set --dashboard-host=127.0.0.1, and open it with: ray dashboard {plan.path}",
        )
    else:
        yield ok("dashboard", f"on loopback; open it with: ray dashboard {plan.path}")


def _ports(plan: ClusterPlan) -> Iterator[Finding]:
    if plan.provider is NodeProvider.AWS:
        group = (plan.data.get("provider") or {}).get("security_group") or {}
        open_ = [r for r in group.get("IpPermissions") or [] if _is_open(r)]
        for rule in open_:
            yield failed(
                "ports",
                f"provider.security_group lets anyone connect: {_ports_of(rule)}",
                "remove the rule: Ray's own group allows ssh, and all ports among the nodes",
            )
        if not open_:
            yield ok("ports", "only ssh is open to the outside")
    elif plan.provider is NodeProvider.LOCAL:
        yield warning(
            "ports",
            "the token alone protects Ray's ports from anyone who can connect to these machines",
            "have a firewall that allows ssh from outside, and other ports among the machines only",
        )


def _is_open(rule: Any) -> bool:
    if not isinstance(rule, dict):
        return False
    ranges = [item.get("CidrIp", "") for item in rule.get("IpRanges") or []]
    ranges += [item.get("CidrIpv6", "") for item in rule.get("Ipv6Ranges") or []]
    ssh = rule.get("FromPort") == rule.get("ToPort") == SSH
    return not ssh and any(str(cidr).endswith("/0") for cidr in ranges)


def _ports_of(rule: dict[str, Any]) -> str:
    if str(rule.get("IpProtocol")) == "-1":
        return "all ports"
    first, last = rule.get("FromPort"), rule.get("ToPort")
    return f"port {first}" if first == last else f"ports {first} to {last}"
