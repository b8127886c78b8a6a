"""Which package of Manta may import which: what tests and docs/architecture.md go by."""

# From the top down: a package may import those of later rows, itself, and nothing else of ours.
LAYERS = [
    {"jobs"},
    {"cli", "api", "testing"},
    {"recommend"},
    {"tune"},
    {"govern"},
    {"elastic"},
    {"evaluate"},
    {"train", "show"},
    {"state", "record"},
    {"objective", "optimizer"},
    {"stream", "model", "parallel"},
    {"schedule", "corpus"},
    {"sample"},
    {"storage"},
    {"config"},
]
# Packages beside the layers: who knows them is said above, what they know is said here.
BESIDE = {"cluster": {"config", "storage"}}
# The rooms of a package that has some, from the top down likewise. "" has its own modules.
ROOMS = {
    "elastic": [
        {"driver"},
        {"controller"},
        {"worker"},
        {"messages"},
        {"checks", "snapshot_memory"},
        {"cluster_state"},
    ],
    "show": [{""}, {"compare", "report", "wandb", "evaluations", "lineage"}, {"console", "pages"}],
}
