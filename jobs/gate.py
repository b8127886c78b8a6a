"""What `ray job submit --working-dir . -- python jobs/gate.py MODEL GATE.yaml …` runs.

The same as `manta gate`, on a cluster where Manta is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from manta.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "gate")
    main()
