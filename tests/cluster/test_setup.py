"""cluster/setup.sh and cluster/env.sh, run for a home folder of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Node:
    """A node as the cluster files' file_mounts leave it, with a lock file of no packages."""

    def __init__(self, home):
        self.home, self.manta = home, home / "manta"
        self.manta.mkdir()
        shutil.copytree(ROOT / "cluster", self.manta / "cluster")
        (self.manta / "platform" / "manta").mkdir(parents=True)
        (self.manta / "platform" / "manta" / "__init__.py").write_text("first = True\n")
        self.lock = self.manta / "requirements.lock"
        self.lock.write_text("# nothing\n")
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("0" * 64)
        (home / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\n")

    def run(self, command):
        """A command as Ray's launcher runs it."""
        launched = f"source ~/.bashrc; export OMP_NUM_THREADS=1 && ({command})"
        return subprocess.run(
            ["bash", "-c", launched],
            env={"HOME": str(self.home), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("home"))
    done = node.run("bash ~/manta/cluster/setup.sh")
    assert done.returncode == 0, done.stderr
    return node


def test_the_packages_and_manta_are_there(node):
    assert (node.manta / "env" / "installed.lock").read_text() == node.lock.read_text()
    done = node.run(". ~/manta/cluster/env.sh; python -c 'import manta; print(manta.__file__)'")
    assert done.stdout.startswith(str(node.manta / "env")), done.stderr


def test_only_the_user_can_read_the_token(node):
    assert (node.home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_every_shell_has_what_ray_needs(node):
    show = "echo $RAY_AUTH_MODE ${OMP_NUM_THREADS-unset} $(ulimit -n); command -v python"
    mode, threads, files, python = node.run(f". ~/manta/cluster/env.sh; {show}").stdout.split()
    assert (mode, threads) == ("token", "unset")
    assert int(files) > 1024
    assert python == str(node.manta / "env" / "bin" / "python")
    # Commands of `ray exec` come without env.sh, and in a shell that ends .bashrc early.
    assert node.run(show).stdout.split()[0] == "token"


def test_a_node_that_is_ready_is_left_as_it_is(node):
    before = (node.manta / "env" / "pyvenv.cfg").stat().st_mtime_ns
    (node.manta / "platform" / "manta" / "__init__.py").write_text("first = False\n")
    assert node.run("bash ~/manta/cluster/setup.sh").returncode == 0
    assert (node.manta / "env" / "pyvenv.cfg").stat().st_mtime_ns == before
    done = node.run(". ~/manta/cluster/env.sh; python -c 'import manta; print(manta.first)'")
    assert done.stdout == "False\n", "Manta itself is brought up to date"
    assert (node.home / ".bashrc").read_text().count("env.sh") == 1


def test_a_failed_installation_does_not_count(node, tmp_path):
    shutil.copytree(node.manta, tmp_path / "manta", symlinks=True)
    (tmp_path / ".bashrc").touch()
    (tmp_path / "manta" / "requirements.lock").write_text("/no/such/package.whl\n")
    other = Node.__new__(Node)
    other.home, other.manta = tmp_path, tmp_path / "manta"
    assert other.run("bash ~/manta/cluster/setup.sh").returncode != 0
    assert not (other.manta / "env" / "installed.lock").exists()


def make_wheel(folder, version):
    """A wheel of a package called torch, with nothing in it; returns the line of a lock."""
    folder.mkdir(exist_ok=True)
    path, info = folder / f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


INSTALL = "PIP_NO_INDEX=1 PIP_FIND_LINKS={} ~/manta/env/bin/python ~/manta/cluster/install.py {}"


def test_the_build_of_torch_is_the_one_that_the_machine_offers(node, tmp_path):
    """The higher one, as pip takes it without checksums, which it prefers to know beforehand."""
    sums = [make_wheel(tmp_path / "wheels", version) for version in ("2.13.0", "2.13.0+cpu")]
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"torch==2.13.0 \\\n    {sums[0]} \\\n    {sums[1]}\n")
    done = node.run(INSTALL.format(tmp_path / "wheels", lock))
    assert done.returncode == 0, done.stderr
    show = "from importlib.metadata import version; print(version('torch'))"
    assert node.run(f'~/manta/env/bin/python -c "{show}"').stdout == "2.13.0+cpu\n"


def test_a_file_that_was_not_locked_is_refused(node, tmp_path):
    known = make_wheel(tmp_path / "locked", "2.12.0")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"torch==2.12.0 {known}\n")
    with zipfile.ZipFile(tmp_path / "locked" / "torch-2.12.0-py3-none-any.whl", "a") as file:
        file.writestr("torch.py", "print('something else')\n")
    done = node.run(INSTALL.format(tmp_path / "locked", lock))
    assert done.returncode != 0
    assert "not installed" in done.stderr
    assert "HASH" in done.stderr.upper()
