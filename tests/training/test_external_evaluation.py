"""A released model on cases from elsewhere: its report is about them, and the same each time."""

from pathlib import Path

from labeling_protocols.volumes import write_volume
from tests.training.drawn import draw
from training.external import open_test_set
from training.external_evaluation import evaluate_externally
from training.workplace import Workplace


def test_a_released_model_is_scored_on_a_folder_of_images_and_truths(released: Workplace, tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for seed in (40, 41, 42):
        image, label = draw(seed)
        write_volume(image, tmp_path / "images" / f"scan{seed}.nii.gz")
        write_volume(label, tmp_path / "labels" / f"scan{seed}.nii.gz")
    protocol = released.store.protocol("hippocampus")
    test_set = open_test_set(tmp_path, protocol)
    champion = released.registry.champion("hippocampus")
    bundle = released.registry.bundle(champion)
    seen: list[None] = []
    report, epochs = evaluate_externally(bundle, test_set, protocol, device="cpu", done=lambda: seen.append(None))
    assert (report.cases, len(seen), epochs) == (3, 3, 2)
    assert (report.model, report.test_set) == (champion.name, test_set.digest)
    mean = report.figure("dice_mean")
    each = [value for _, value in report.worst_first()]
    assert mean is not None
    assert mean.value is not None
    assert abs(mean.value - sum(each) / 3) < 1e-9
    again, _ = evaluate_externally(bundle, test_set, protocol, device="cpu")
    assert again == report
