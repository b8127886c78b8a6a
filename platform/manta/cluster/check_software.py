"""Do the nodes get exactly the packages of the lock file, and the same Ray as this machine?"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from manta.cluster.cluster_file import ClusterPlan, NodeGroup, NodeProvider
from manta.cluster.findings import Finding, failed, ok, warning
from manta.cluster.kuberay import schema_errors as kuberay_errors
from manta.cluster.launcher import schema_errors as launcher_errors
from manta.cluster.lockfile import NAME, installs, normal, read_lock

PIP_INSTALL = re.compile(r"\bpip3?\s+install\b([^;&|\n]*)")
OPTIONS_WITH_VALUE = {"-r", "-c", "--requirement", "--constraint", "-i", "--index-url", "-f"}
# Words in the names of images with CUDA, and in the names of images that are known to lack it.
WITH_CUDA = re.compile(r"gpu|cuda|nvidia|cu1\d|deeplearning|dlami", re.IGNORECASE)
WITHOUT_CUDA = re.compile(r"cpu|canonical/ubuntu|al2023-ami|amzn2|debian-cloud|ubuntu-os-cloud")
RAY_IMAGE = re.compile(r"rayproject/ray(?:-ml)?:|/ray:")
VERSION = re.compile(r"(?<![\d.])(\d+\.\d+\.\d+)(?![\d.])")
SHOWN = 50  # characters of an image's name
LIBRARIES = {
    NodeProvider.AWS: ("boto3", "boto3"),
    NodeProvider.GCP: ("googleapiclient", "google-api-python-client"),
}


def check_schema(plan: ClusterPlan) -> Iterator[Finding]:
    """Whether Ray's launcher, or its autoscaler on Kubernetes, accepts the file."""
    read = kuberay_errors if plan.provider is NodeProvider.KUBERAY else launcher_errors
    errors = read(plan)
    for error in errors:
        yield failed("schema", error, f"correct it in {plan.path}")
    if not errors:
        yield ok("schema", f"{plan.path.name}: {plan.provider.value}")


def check_tools(plan: ClusterPlan) -> Iterator[Finding]:
    """Whether this machine has the programs and packages that launch such a cluster."""
    programs = ["ssh", "rsync"] if plan.launched else ["kubectl"]
    missing = [name for name in programs if shutil.which(name) is None]
    library = LIBRARIES.get(plan.provider)
    if library is not None and util.find_spec(library[0]) is None:
        missing.append(library[1])
    if missing:
        yield failed(
            "tools",
            f"missing on this machine: {', '.join(missing)}",
            "install them: `ray up` needs them here" if plan.launched else "install kubectl",
        )
    else:
        yield ok("tools", ", ".join([*programs, *([library[1]] if library else [])]))


def check_packages(plan: ClusterPlan, lock: Path) -> Iterator[Finding]:
    """Whether the setup commands install what the lock file pins, and nothing else."""
    if not plan.launched:
        return  # the image has the packages; check_versions looks at its tag
    pins = read_lock(lock)
    wrong = list(_unpinned(plan, pins))
    yield from wrong
    if not _installs_lock(plan):
        yield failed(
            "packages",
            f"no setup command installs {NAME}: nodes would have other versions than this machine",
            "copy file_mounts and setup_commands from cluster.yaml, which run cluster/setup.sh",
        )
    elif not wrong:
        yield ok("packages", f"the nodes get exactly the {len(pins)} packages of {NAME}")
    yield from _mounts(plan)


def _installs_lock(plan: ClusterPlan) -> bool:
    sent = {Path(here).name: there for there, here in plan.mounts.items()}
    if NAME not in sent:
        return False
    asked = (f"-r {sent[NAME]}", f"install.py {sent[NAME]}")
    return any("cluster/setup.sh" in c or any(a in c for a in asked) for c in plan.setup)


def _unpinned(plan: ClusterPlan, pins: dict[str, str]) -> Iterator[Finding]:
    for command in plan.setup:
        for arguments in PIP_INSTALL.findall(command):
            for package in _packages(arguments):
                name, _, version = package.partition("==")
                pin = pins.get(normal(name))
                if version and (pin is None or pin == version):
                    continue
                pinned = f"which pins {normal(name)}=={pin}" if pin else "which doesn't have it"
                yield failed(
                    "packages",
                    f"a setup command installs '{package}' besides {NAME}, {pinned}",
                    f"remove it from the command: cluster/setup.sh installs {NAME}"
                    if pin
                    else f"give its version: {package}==VERSION",
                )


def _packages(arguments: str) -> Iterator[str]:
    words = iter(arguments.split())
    for word in words:
        word = word.strip("'\"")
        if word in OPTIONS_WITH_VALUE:
            next(words, None)
        elif word and not word.startswith(("-", ".", "/", "~", "$", "<", ">")):
            yield word


def _mounts(plan: ClusterPlan) -> Iterator[Finding]:
    missing = [here for here in plan.mounts.values() if not Path(here).expanduser().exists()]
    for here in missing:
        if here.endswith("auth_token"):
            continue  # check_safety reports a missing token
        yield failed(
            "files",
            f"file_mounts names {here}, which doesn't exist, seen from {Path.cwd()}",
            "run `ray up` and `manta doctor` from the root of the repository",
        )


def check_versions(plan: ClusterPlan, lock: Path) -> Iterator[Finding]:
    """Whether Ray has the same version here, in the lock file and in the images."""
    locked, local = read_lock(lock).get("ray"), metadata.version("ray")
    wrong = False
    if local != locked:
        wrong = True
        yield failed(
            "Ray version",
            f"{local} here, but {locked} in {NAME}, which the nodes install",
            f"install the pinned version here: {installs(lock)}",
        )
    if (
        plan.provider is NodeProvider.KUBERAY
        and (said := str(plan.data["spec"].get("rayVersion"))) != locked
    ):
        wrong = True
        yield failed(
            "Ray version",
            f"rayVersion is {said}, but {NAME} has {locked}",
            f"set rayVersion: {locked} and build the image from the lock file",
        )
    for image in sorted({g.image for g in plan.groups if g.image and _is_container(plan, g)}):
        tag = VERSION.search(image.rpartition(":")[2])
        if tag is not None and tag[1] != locked:
            wrong = True
            yield failed(
                "Ray version",
                f"the image {image} has Ray {tag[1]}, but {NAME} has {locked}",
                f"use an image with Ray {locked}, such as the one that cluster/Dockerfile builds",
            )
        elif tag is None:
            yield warning(
                "Ray version",
                f"the tag of the image {image} doesn't name its Ray version",
                f"check that the image has Ray {locked}, and put that version into its tag",
            )
    if not wrong:
        yield ok("Ray version", f"{locked} here and on the nodes")


def _is_container(plan: ClusterPlan, group: NodeGroup) -> bool:
    return not plan.launched or bool((plan.data.get("docker") or {}).get("image"))


def check_images(plan: ClusterPlan) -> Iterator[Finding]:
    """Whether the images of nodes with GPUs have NVIDIA's driver or CUDA."""
    for group in plan.groups:
        if not group.gpus:
            continue
        if group.image is None:
            yield warning(
                "image",
                f"{group.name} has GPUs, but the file names no image for it",
                "name an image with NVIDIA's driver, and Python 3.11 or newer",
            )
        elif WITH_CUDA.search(group.image):
            yield ok("image", f"{group.name}: {_short(group.image)}")
        elif WITHOUT_CUDA.search(group.image) or RAY_IMAGE.search(group.image):
            yield failed(
                "image",
                f"{group.name} has GPUs, but its image has no CUDA: {_short(group.image)}",
                "use a machine image with NVIDIA's driver, or a container image with a -gpu tag",
            )
        else:
            yield warning(
                "image",
                f"{group.name} has GPUs; can't tell whether {_short(group.image)} supports them",
                "check that the image has NVIDIA's driver, and Python 3.11 or newer",
            )


def _short(image: str) -> str:
    return image if len(image) <= SHOWN else f"…{image[1 - SHOWN :]}"
