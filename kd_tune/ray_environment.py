"""What Ray reads of its environment when it is imported: set before any module of kd_tune can import it.

What Tune reads when a search begins is set for that search alone (`cluster`): others in this process keep theirs.
"""

from __future__ import annotations

import os

from kd_tune.ray_token import MODE, has_token

# `ray start` asks for a token wherever one lies; a driver that joins must then send it, but does so only if told.
if has_token(os.environ):
    os.environ.setdefault(MODE, "token")
# Clients take no core, and Ray would call it suspicious that there are more of them than cores.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started on node")
