"""Mends what monailabel 0.8.5 needs before it can be imported beside current libraries; called first, and idempotent.

Enters: the installed packages. Leaves: an importable monailabel, or a `CompatError` that says which package is wrong
and what to do about it. Worker processes call it too.
"""

import importlib.util
import sys
import types
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Versions this was seen working with: from the first number, and below the second.
SUPPORTED: Mapping[str, tuple[str, str]] = {
    "monailabel": ("0.8.5", "0.8.6"),
    # 1.6 takes every `image_*` key of a datalist for a meta dictionary and meets monailabel's `image_path` string.
    "monai": ("1.5", "1.6"),
    "pydicom": ("3.0", "4"),
    # Older ones let a crafted checkpoint run code (CVE-2025-32434, CVE-2026-24747).
    "torch": ("2.10", "3"),
}
# Other distributions ship top-level packages of these names: monailabel's optional sam2 has a `training`.
OURS = ("training",)

_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_kept_alive: list[object] = []
_mended = False


class CompatError(RuntimeError):
    """A package that this application cannot work with: which, what was found, what to do."""


def mend() -> None:
    """Check versions and package names, then mend; after the first call nothing is done. Raises `CompatError`."""
    global _mended
    if _mended:
        return
    check_versions({name: _installed(name) for name in SUPPORTED})
    for name in OURS:
        check_package(name, ROOT)
    _give_pydicom_seg_its_module()
    _declare_torchvision_operators()
    _mended = True


def check_versions(found: Mapping[str, str | None]) -> None:
    """Raise `CompatError` for the first package whose version (None: not installed) is not one of `SUPPORTED`."""
    for name, (least, below) in SUPPORTED.items():
        have = found.get(name)
        if have is None:
            raise CompatError(f"{name} is not installed; expected {name}>={least},<{below}. Run scripts/setup.")
        if not _numbers(least) <= _numbers(have) < _numbers(below):
            raise CompatError(f"found {name} {have}; expected {name}>={least},<{below}. Run scripts/setup.")


def check_package(name: str, root: Path) -> None:
    """Raise `CompatError` where a top-level package of ours is another distribution's, or `root` has none."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        if (root / name).is_dir():
            raise CompatError(f"the package `{name}` cannot be imported; start from {root} or install this project.")
        return
    places = [Path(place).resolve() for place in (spec.submodule_search_locations or [])]
    if root / name not in places[:1] and (root / name).is_dir():
        raise CompatError(
            f"another distribution's package `{name}` hides ours: found {places[0] if places else spec.origin},"
            f" expected {root / name}. Remove that distribution (sam2 is a known one) or start from {root}."
        )


def _give_pydicom_seg_its_module() -> None:
    """pydicom-seg 0.4.1 reads a SOP class from a module that pydicom 3 no longer has."""
    name = "pydicom._storage_sopclass_uids"
    if importlib.util.find_spec(name) is not None:
        return
    stub = types.ModuleType(name)
    stub.SegmentationStorage = _SEGMENTATION_STORAGE  # type: ignore[attr-defined]
    sys.modules[name] = stub


def _declare_torchvision_operators() -> None:
    """torchvision's CUDA wheel on a CPU torch stops at an operator it cannot find; declared, it is never called."""
    import torch

    if torch.version.cuda is not None or _operators_exist("nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept_alive.append(library)  # the schemas vanish with the object


def _operators_exist(name: str) -> bool:
    """Whether torchvision, as installed, brings its own compiled operators."""
    import torch

    try:
        import torchvision.extension  # noqa: F401  loads the compiled operators
    except (ImportError, RuntimeError, OSError):
        _forget("torchvision")
    return hasattr(torch.ops.torchvision, name)


def _forget(package: str) -> None:
    """Drop a half-imported package, so that the next import starts afresh."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """The release numbers of a version: '2.13.0+cpu' gives (2, 13, 0)."""
    numbers = []
    for part in text.split("+")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not digits or not part[0].isdigit():
            break
        numbers.append(int(digits))
    return tuple(numbers)
