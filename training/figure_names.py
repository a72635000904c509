"""How figures of an evaluation are called in sentences and tables: a report's name in, words out."""

_WHOLE = {
    "dice_mean": "mean Dice",
    "surface_dice_mean": "mean surface Dice",
    "brier_score": "Brier score",
    "map": "mAP",
    "froc": "FROC score",
    "missed": "missed",
    "invented": "invented",
}
_OF_ONE = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95_mm": "median HD95 (mm)",
    "average_surface_distance_mm": "average surface distance (mm)",
    "volume_bias_ml": "volume bias (ml)",
    "brier_score": "Brier score",
    "auc": "AUC",
}


def spoken(name: str) -> str:
    """'dice_mean' as 'mean Dice', 'dice/anterior' as 'anterior: Dice'; other names with spaces for underscores."""
    what, _, whom = name.partition("/")
    if not whom:
        return _WHOLE.get(name, _plain(name))
    return f"{whom}: {_OF_ONE.get(what, _plain(what))}"


def _plain(name: str) -> str:
    return name.replace("_fp", " false positives a study").replace("_", " ")
