"""The flags that a run, a sweep of runs and a run's first step share."""

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file in configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that is written; made if it is not there.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Show what would be done, and train nothing.")
STOP_AFTER = flags.DEFINE_float(
    "stop_after_minutes", None, "Save and stop after so many minutes; the same command goes on later.", lower_bound=0
)
