"""The names of ``zoo.cli`` for commands of plugins, by defining module."""

from .completion import complete_datasets as complete_datasets
from .completion import complete_models as complete_models
from .completion import complete_overrides as complete_overrides
from .completion import complete_runs as complete_runs
from .options import RUN as RUN
from .options import RunFolder as RunFolder
from .options import data_dir_option as data_dir_option
from .options import device_option as device_option
from .options import json_option as json_option
from .options import prior_option as prior_option
from .options import registry_option as registry_option
from .options import seed_option as seed_option
from .output import log_to_stderr as log_to_stderr
from .output import print_json as print_json
from .output import print_resume_command as print_resume_command
from .output import print_table as print_table
from .progress import evaluation_progress as evaluation_progress
