"""What Ray reads of its environment when it is imported: set before any module of kd_tune can import it."""

from __future__ import annotations

import os

from kd_tune.ray_token import MODE, has_token

# `ray start` asks for a token wherever one lies; a driver that joins must then send it, but does so only if told.
if has_token(os.environ):
    os.environ.setdefault(MODE, "token")
# What a search does is sent to nobody unless its user said so.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# TensorBoard is told by us (`tensorboard_log`), and of Ray's snapshots nothing is read.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(10**9))
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours tells it (`_stops_tell_tune`)
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
# Clients take no core, and Ray would call it suspicious that there are more of them than cores.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started on node")
