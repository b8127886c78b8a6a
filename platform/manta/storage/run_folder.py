"""File names in the folders of a run, a sweep and a checkpoint; each is spelled only here."""

# In a run's folder.
RUN = "run.json"  # the run's record
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"  # the run's history, one row a line
DAMAGED = "metrics.damaged"  # lines of the history that can't be read
LEDGER = "ledger.parquet"  # a folder of parts
CHECKPOINTS = "checkpoints"  # a folder of folders
SKIPS = "skips.json"  # steps that the run does not train on
FORK = "fork.json"  # names the checkpoint of another run that the run started from
REPORT = "report.html"
EVALUATIONS = "evaluations"  # a folder of folders, also in that of an exported model
AUDIT = "audit.jsonl"  # what was done to the run or model, each line chained to the one before
EXPORTS = "exported"  # a folder of models, one a checkpoint, that other runs start from

# In the folder of a corpus or of an exported model: where it comes from.
LINEAGE = "lineage.json"

# In a sweep's folder, beside the folders of its trials.
SWEEP = "sweep.json"
COMPARISON = "compare.html"
REQUESTS = ".requests"  # a folder of changes that users ask of the sweep, one a file

# In a tuning's folder, beside the folders of its sweeps.
TUNING = "tune.json"
TUNED = "tuned.yaml"
TUNING_PAGE = "tune.html"

# In the folder of one name in a registry of models.
VERSIONS = "versions"  # a folder of folders, one a version
VERSION = "version.json"  # in a version's folder, beside the model's
ALIASES = "aliases.json"

# In a checkpoint's folder, beside the files of Torch; its rows of metrics are in METRICS, too.
STATE = "state.json"

# In the folder of an evaluation; its examples are in a file that it names.
EVALUATION = "evaluation.json"
EVALUATION_PAGE = "evaluation.html"
GATE = "gate-{name}.json"  # the decision of the gate of that name
