"""cluster/setup.sh and cluster/env.sh, run for a home folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
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
