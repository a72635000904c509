"""What a training ran on and with: this process in; commit, machine and installed packages out, as text for its run."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

import torch
import yaml

_ROOT = Path(__file__).parents[1]
_CODE = ("apps", "labeling_protocols", "scripts", "training")  # a site's own files in the checkout are none of it
_PACKAGES = ("torch", "monai", "mlflow", "numpy", "SimpleITK")  # what decides the numbers
_DIFF_CHARACTERS_MAX = 500_000


@dataclass(frozen=True, kw_only=True)
class Code:
    """The checkout this code runs from; `changes` is its difference from the commit, "" where there is none."""

    commit: str
    branch: str
    changes: str


def code() -> Code:
    """The checkout; commit and branch are "unknown" where there is none."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        branch = _git("rev-parse", "--abbrev-ref", "HEAD").strip()
        new = _git("ls-files", "--others", "--exclude-standard", "--", *_CODE)
        changes = "".join(f"new file: {name}\n" for name in new.splitlines()) + _git("diff", "HEAD", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return Code(commit="unknown", branch="unknown", changes="")
    if len(changes) > _DIFF_CHARACTERS_MAX:
        changes = f"{changes[:_DIFF_CHARACTERS_MAX]}\n… cut here, of {len(changes)} characters\n"
    return Code(commit=commit, branch=branch, changes=changes)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version(), **{name.lower(): version(name) for name in _PACKAGES}}


def packages() -> str:
    """Every installed distribution with its version, one a line, as `pip freeze` would write them."""
    found = {f"{one.metadata['Name']}=={one.version}" for one in distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine() -> str:
    """Processor, memory, accelerators, system and PyTorch's build as YAML; not the machine's name."""
    said = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch_threads": torch.get_num_threads(),
        "torch_build": [line.strip(" -") for line in torch.__config__.show().splitlines()],
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=1000)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout
