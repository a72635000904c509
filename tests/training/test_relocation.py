"""A site's MLflow finds its artifacts after the folder was moved or restored elsewhere."""

from pathlib import Path

from mlflow import MlflowClient

from training.relocation import follow_artifacts


def test_artifacts_are_found_in_the_new_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old site", tmp_path / "new"
    old.mkdir()
    uri = f"sqlite:///{old / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("hippocampus", artifact_location=(old / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "curves", "report.txt")
    client.create_registered_model("hippocampus")
    client.create_model_version("hippocampus", source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    old.rename(new)
    assert follow_artifacts(new / "mlflow.db", old, new) == 4
    uri = f"sqlite:///{new / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.download_artifacts(run.info.run_id, "report.txt", str(tmp_path))
    assert Path(found).read_text() == "curves"
    assert client.get_model_version("hippocampus", "1").source.startswith(new.as_uri())
    assert follow_artifacts(new / "mlflow.db", old, new) == 0
