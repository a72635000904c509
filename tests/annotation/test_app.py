"""The app as monailabel's own loader finds it: it loads, tells what is public, and acts for nobody."""

from pathlib import Path

import pytest
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.utils.app import app_instance

import apps.annotation
from apps.annotation.calling import NobodyError
from labeling_protocols.store import UnknownError
from labeling_protocols.volumes import write_volume
from tests.annotation.served import Served
from tests.conftest import label_of


def test_monailabels_loader_finds_the_app_and_nobody_saves_through_it(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVERREAD_SITE", raising=False)
    [case] = served.cases(served.protocol())
    app = app_instance(str(Path(str(apps.annotation.__file__)).parent), str(served.site.root))
    assert isinstance(app, MONAILabelApp)
    app.on_init_complete()
    assert set(app.info()["trainers"]) == {protocol.name for protocol in served.store.protocols()}
    assert app.info()["datastore"]["completed"] == 0
    assert case.id in app.datastore().list_images()
    with pytest.raises(NobodyError):
        app.next_sample({"strategy": "worklist"})
    label = tmp_path / "label.nrrd"
    write_volume(label_of(), label)
    with pytest.raises(NobodyError):
        app.datastore().save_label(case.id, str(label), "final", {})
    with pytest.raises(UnknownError):
        app.datastore().get_image_uri("../../x")
    app.close()
