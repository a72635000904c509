"""What monailabel has and this server does not do: each such route answers 403 and says why."""

from collections.abc import Callable

from fastapi import APIRouter

from apps.annotation.dependencies import Anyone
from apps.annotation.visible import RefusedError

router = APIRouter()

_INGEST = "images come in through `overread ingest`, which removes what names a patient first."
_READS_STAY = "a read is never removed or overwritten; save again to make its next revision."
_RELEASES = "models are trained, gated and released as signed bundles; none is uploaded, downloaded or deleted here."
_LOGS = "logs stay on the server, in the site's folder `logs`."

REFUSED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("/datastore/", ("PUT", "DELETE"), _INGEST),
    ("/datastore/image", ("PUT", "DELETE"), _INGEST),
    ("/datastore/image/info", ("PUT",), "what is known of an image is not changed from a viewer."),
    ("/datastore/label", ("DELETE",), _READS_STAY),
    ("/datastore/dataset", ("GET",), "truths leave in training snapshots, not as an archive."),
    ("/model/{model}", ("GET", "PUT", "DELETE"), _RELEASES),
    ("/model/info/{model}", ("GET",), _RELEASES),
    ("/scoring/", ("GET", "POST", "DELETE"), "no scoring method is offered."),
    ("/scoring/{method}", ("POST",), "no scoring method is offered."),
    ("/infer/wsi/{model}", ("POST",), "whole-slide images are not labelled here."),
    ("/logs/", ("GET",), _LOGS),
    ("/logs/gpu", ("GET",), _LOGS),
)


def _refusing(words: str) -> Callable[[Anyone], None]:
    def refuse(caller: Anyone) -> None:
        raise RefusedError(words)

    return refuse


for _path, _methods, _words in REFUSED:
    router.add_api_route(_path, _refusing(_words), methods=list(_methods), include_in_schema=False)
