"""A disk that is really full: one clear error, nothing half-written, and then on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manta.config.errors import CorpusError
from manta.corpus.prepare import prepare

TEXTS = [f"document {i}: {'lorem ipsum ' * (i % 7)}" for i in range(600)]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A filesystem of its own, and a function that changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
    if mounted.returncode:
        pytest.skip(f"can't mount a small filesystem here: {mounted.stderr.strip()}")
    try:
        yield folder, lambda size: run("mount", "-o", f"remount,size={size}", folder)
    finally:
        run("umount", "-l", folder)  # lazily: shards may still be mapped


# Full in the first pass, in the second, and while shards are being joined.
@pytest.mark.parametrize("size", ["16k", "80k", "168k"])
@pytest.mark.usefixtures("inline")
def test_on_a_full_disk(config, jsonl, small_disk, contents, tmp_path, size):
    disk, resize = small_disk
    resize(size)
    settings = config(jsonl(TEXTS), shard_tokens=2000, on_error="quarantine", out=str(disk / "out"))

    with pytest.raises(CorpusError, match="No space left on device; free some space and run"):
        prepare(settings, progress=False)

    assert not (disk / "out" / "manifest.json").exists()
    assert not list(disk.rglob("*.tmp"))
    prepare(settings.model_copy(update={"out": str(tmp_path / "roomy")}), progress=False)
    whole = contents(tmp_path / "roomy")
    assert all(path.read_bytes() == whole[path.name] for path in (disk / "out").glob("*.arrow"))
    resize("32m")
    prepare(settings, progress=False)
    assert contents(disk / "out") == whole
    assert not (disk / "out" / "quarantine.jsonl").exists()


def test_on_a_full_disk_on_ray(config, jsonl, small_disk, ray_local):
    disk, _ = small_disk
    settings = config(jsonl(TEXTS), shard_tokens=2000, out=str(disk / "out"))

    with pytest.raises(CorpusError) as caught:
        prepare(settings, progress=False)

    assert "No space left on device; free some space" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_limit_on_file_size_is_a_full_disk_too(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from manta.config.errors import CorpusError\n"
        "from manta.storage.atomic import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_whole(Path(sys.argv[1]), bytes(5000))\n"
        "except CorpusError as error: print(error)\n"
    )

    done = run(sys.executable, "-c", script, tmp_path / "x")

    assert "x: can't be written: File too large; free some space" in done.stdout
    assert list(tmp_path.iterdir()) == []
