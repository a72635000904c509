"""One of several processes that train a job together; torchrun starts them.

    torchrun --nproc-per-node 2 -m apps.train_process --site DIR --job JOB

Each of a host's processes takes one of its GPUs, or a share of its cores. On several hosts torchrun is started on each
with `--nnodes` and `--rdzv-endpoint`; all of them need the site's store (`[store]` in `config.toml`) and the first
one's folder. Rank 0 says how far it is, and each process what ended it, a line of JSON at a time.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from apps import compat
from apps.settings import Site
from apps.training_site import workplace
from training.fitting import train
from training.group import joined

FAILED = "failed"  # under this a process says in words what ended it


def main() -> None:
    parser = argparse.ArgumentParser(prog="apps.train_process", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--job", required=True)
    arguments = parser.parse_args()
    compat.mend()
    site = Site(arguments.site)
    try:
        with joined(site.config.training.device) as (group, device), workplace(site) as place:
            train(place, arguments.job, tell=_tell, group=group, device=device)
    except (RuntimeError, ValueError, LookupError, OSError) as error:
        _tell({FAILED: str(error)})
        raise


def _tell(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
