"""Where the work runs: connect to a cluster, or start an embedded Ray on this machine."""
