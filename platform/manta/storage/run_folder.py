"""The names of what lies in the folder of a run, of a sweep and of a checkpoint: each once."""

# Of a run.
RUN = "run.json"  # its record
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"  # its history, one row a line
DAMAGED = "metrics.damaged"  # lines of the history that can't be read
LEDGER = "ledger.parquet"  # a folder of parts
CHECKPOINTS = "checkpoints"  # a folder of folders
SKIPS = "skips.json"  # steps that it does not train on
FORK = "fork.json"  # the run whose checkpoint it began from
REPORT = "report.html"
EXPORTS = "exported"  # a folder of models, one a checkpoint, from which other runs begin

# Of a sweep, which holds the folders of its trials.
SWEEP = "sweep.json"
COMPARISON = "compare.html"

# Of a checkpoint, beside the files of Torch; its rows of metrics are called METRICS, too.
STATE = "state.json"
