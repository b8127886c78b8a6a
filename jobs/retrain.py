"""What `ray job submit --working-dir . -- python jobs/retrain.py TRIGGERS.yaml --go` runs.

The same as `manta retrain`, on a cluster where Manta is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from manta.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "retrain")
    main()
