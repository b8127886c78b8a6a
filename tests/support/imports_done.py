"""Imported last by a server that forks processes: what it has imported is no garbage.

Without it the garbage collector of each fork goes through all of these objects, and thereby copies
the pages that they are in.
"""

import gc

gc.freeze()
