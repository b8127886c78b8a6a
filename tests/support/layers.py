"""Which package of Manta may import which: what tests and docs/architecture.md go by."""

# From the top down: a package may import those of later rows, itself, and nothing else of ours.
LAYERS = [
    {"jobs"},
    {"cli"},
    {"tune"},
    {"elastic"},
    {"train", "track"},
    {"stream"},
    {"schedule", "corpus"},
    {"storage"},
    {"config"},
]
# Packages beside the layers: who knows them is said above, what they know is said here.
BESIDE = {"cluster": {"config", "storage"}}
