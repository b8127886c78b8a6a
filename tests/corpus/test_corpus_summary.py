"""What is said of a corpus once it is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from manta.corpus.corpus_summary import next_commands, show_summary

pytestmark = pytest.mark.usefixtures("inline")


def test_the_summary_says_what_is_there_what_is_not_and_what_comes_next(
    make, jsonl, tmp_path, capsys
):
    bad = jsonl([], "b")
    Path(bad["paths"][0]).write_text('{"text": "only [b] has this"}\nno json\n')
    texts = [f"text {i}" for i in range(30)]
    manifest = make(jsonl(["", *texts, *texts[:2]], "a"), bad, on_error="quarantine")

    show_summary(manifest, str(tmp_path / "out"), Console(width=100))

    said = capsys.readouterr().out
    tokens = sum(shard.tokens for shard in manifest.shards)
    for part in (
        f"{tmp_path}/out (fingerprint {manifest.fingerprint[:12]})",
        "documents  31\n",
        f"2 duplicate, 1 empty, 1 quarantined (reasons: {tmp_path}/out/quarantine.jsonl)",
        f"{tokens:,} in {len(manifest.shards)} shards, ",
        f"{manifest.vocab_size} tokens (uint16), EOS is {manifest.eos_id}; trained on a sample",
        f"look at it: manta inspect {tmp_path}/out\n",
        f"train on it: manta train RUN.yaml corpus={tmp_path}/out\n",
    ):
        assert part in said
    (row,) = [line for line in said.splitlines() if line.startswith("│ b ")]
    assert f"1 / {sum(manifest.counts[s]['b'].tokens for s in manifest.counts)}" in row


def test_commands_are_quoted_for_a_shell():
    assert next_commands("my corpus")[1][1] == "manta train RUN.yaml 'corpus=my corpus'"
