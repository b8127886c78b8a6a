"""Check what the demo left in a run's folder: it trained, tracked and exported."""

import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
from transformers import AutoModelForCausalLM, AutoTokenizer

run = Path(sys.argv[1])
record = json.loads((run / "run.json").read_text())
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
ledger = pq.read_table(run / "ledger.parquet").to_pylist()
losses = [row["val_loss"] for row in rows if "val_loss" in row]

assert record["status"] == "finished", record["status"]
assert record["totals"]["tokens"] == ledger[-1]["tokens"] >= 40_000
assert [row["step"] for row in ledger] == list(range(1, record["totals"]["steps"] + 1))
assert all(row["world_size"] == 2 for row in ledger)
assert losses[-1] < losses[0] - 1.5, losses
figures = re.search(r'id="figures"[^>]*>(.*?)</script>', (run / "report.html").read_text(), re.S)
curves = {curve["name"]: curve["y"] for curve in json.loads(figures[1])[0]["data"]}
assert curves["Validation"] == losses, "the report draws what was measured"
assert list((run / "wandb").glob("offline-run-*/*.wandb"))
AutoModelForCausalLM.from_pretrained(run / "model")
assert AutoTokenizer.from_pretrained(run / "model")("def ").input_ids
print(f"demo: validation loss {losses[0]:.2f} to {losses[-1]:.2f}")
