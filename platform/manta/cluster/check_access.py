"""Can the run reach what is outside the cluster: storage, W&B, the cloud's API?"""

from __future__ import annotations

import netrc
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from manta.cluster.cluster_file import ClusterPlan, NodeProvider
from manta.cluster.findings import Finding, failed, ok, warning
from manta.config.errors import CorpusError
from manta.config.run import RunConfig, WandbSection
from manta.storage.probe import check_writable
from manta.storage.store import StorePath

MANIFEST = "manifest.json"
PROBE_SECONDS = 30.0
REACH_SECONDS = 5.0
WANDB = "https://api.wandb.ai"
PLACEHOLDER = re.compile(r"YOUR-[A-Z-]+|FILESTORE-ADDRESS|\b192\.0\.2\.\d+")


def check_placeholders(plan: ClusterPlan) -> Iterator[Finding]:
    """Placeholders that the user has not filled in yet."""
    lines = [line.partition(" #")[0] for line in plan.text.splitlines() if line[:1] != "#"]
    left = sorted({word for line in lines for word in PLACEHOLDER.findall(line)})
    if left:
        yield warning(
            "fill in",
            f"placeholders that are still in the file: {', '.join(left)}",
            f"put your own values into {plan.path}",
        )


def check_credentials(plan: ClusterPlan) -> Iterator[Finding]:
    """Whether this machine has credentials for the cloud; sends no request."""
    if plan.provider is not NodeProvider.AWS:
        return
    try:
        import boto3
    except ImportError:
        return  # check_tools reports the missing package
    if boto3.Session().get_credentials() is None:
        yield failed(
            "credentials",
            "this machine has no AWS credentials",
            "run `aws configure`, or export AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    else:
        yield ok("credentials", "AWS")


def check_data(plan: ClusterPlan | None, run: RunConfig) -> Iterator[Finding]:
    """Whether run.storage is writable, the corpus exists, and all nodes see both."""
    yield _storage(plan, run.run.storage)
    yield _corpus(plan, run.corpus)


def _storage(plan: ClusterPlan | None, storage: str) -> Finding:
    if "://" not in storage:
        return _far_away(plan, "storage", "run.storage", storage) or _writable(storage)
    reason = _failure(lambda: check_writable(StorePath.of(storage), "run.storage"))
    if reason:
        return failed(
            "storage",
            f"from here: {reason}",
            "check run.storage: the bucket must exist, and your credentials must allow writing to "
            "it; the nodes need the same rights (cluster/aws-access.yaml)",
        )
    return ok("storage", f"{storage}: writable from here")


def _corpus(plan: ClusterPlan | None, corpus: str) -> Finding:
    prepare = f"prepare it: manta prepare CONFIG.yaml out={corpus}"
    if "://" not in corpus:
        far = _far_away(plan, "corpus", "corpus", corpus)
        if far is not None:
            return far
        if not (Path(corpus) / MANIFEST).is_file():
            return failed("corpus", f"{corpus} has no {MANIFEST}", prepare)
        return ok("corpus", corpus)
    reason = _failure(lambda: _look_for(StorePath.of(corpus) / MANIFEST))
    if reason:
        return failed("corpus", f"{corpus}: {reason}", f"{prepare}, or check your credentials")
    return ok("corpus", f"{corpus}: readable from here")


def _far_away(plan: ClusterPlan | None, check: str, key: str, path: str) -> Finding | None:
    """What to report of a path on a cluster's nodes, which this machine can't see."""
    if plan is None:
        return None
    if plan.provider in (NodeProvider.AWS, NodeProvider.GCP) and not path.startswith("/mnt/"):
        return failed(
            check,
            f"{key} = {path!r} is a folder of one node: others don't see it, and it is lost when "
            "the node ends",
            "give a URL, such as s3://bucket/…, or a share that all nodes mount below /mnt",
        )
    return warning(
        check,
        f"{key} = {path!r}: can't be seen from here",
        "make sure that it is a share, mounted at the same path on all nodes",
    )


def _writable(storage: str) -> Finding:
    here = Path(storage)
    while not here.exists():
        here = here.parent
    if not os.access(here, os.W_OK):
        return failed("storage", f"{here} isn't writable", "give another run.storage")
    return ok("storage", f"{storage}: writable")


def _look_for(file: StorePath) -> None:
    if not file.exists():
        raise CorpusError(f"there is no {file.name}")


def _failure(act: Callable[[], None]) -> str:
    """Why `act` fails or does not end in time; the empty string if it succeeds."""
    reasons: list[str] = []

    def work() -> None:
        try:
            act()
        except Exception as error:
            reasons.append(" ".join(str(error).split())[:300] or type(error).__name__)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if thread.is_alive():
        return f"no answer in {PROBE_SECONDS:g} s"
    return "".join(reasons)


def check_wandb(plan: ClusterPlan | None, section: WandbSection) -> Iterator[Finding]:
    """Whether the run can log to W&B as its config says, as far as this machine can tell."""
    if section.mode in ("offline", "disabled"):
        yield ok("W&B", section.mode)
        return
    service = os.environ.get("WANDB_BASE_URL", WANDB).rstrip("/")
    remedy = f"wandb login, or export WANDB_API_KEY=…{_on_the_head(plan)}"
    if not _has_key(service):
        found = f"no API key for {service} on this machine"
        if section.mode == "online":
            yield failed("W&B", f"wandb.mode = 'online', but {found}", remedy)
        else:
            yield warning("W&B", f"{found}: runs are logged offline", remedy)
    elif (reason := _unreachable(service)) is not None:
        found = f"{service} can't be reached from here: {reason}"
        instead = "check the network, or set wandb.mode: offline and use `wandb sync` later"
        if section.mode == "online":
            yield failed("W&B", found, instead)
        else:
            yield warning("W&B", found, instead)
    else:
        yield ok("W&B", f"key for {service}, which answers{_on_the_head(plan)}")


def _on_the_head(plan: ClusterPlan | None) -> str:
    """How the head gets a key: drivers log to W&B from there, and no secret is sent with a job."""
    if plan is None:
        return ""
    if plan.provider is NodeProvider.KUBERAY:
        return "; for the cluster put the key into the secret that the head's envFrom names"
    return f"; for the cluster `ray attach {plan.path}`, then wandb login on the head"


def _has_key(service: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urllib.parse.urlsplit(service).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _unreachable(service: str) -> str | None:
    """Why `service` can't be reached; None if it answers, be it with an HTTP error."""
    try:
        urllib.request.urlopen(service, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None
