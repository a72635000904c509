"""Whole requests to our server beside monailabel 0.8.5's, with the same weights, images and windows, in one run.

Both are processes of their own with their model loaded; requests are made in turn. Each is an HTTP request as 3D Slicer
makes it: the image by its case, the label back as an uncompressed .nrrd.
"""

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import requests
import torch
from measuring import Row, seconds_of
from serving_site import PROTOCOL, Server, large_image, learned_pairs, our_server, released_site
from stock_server import MODEL, STRATEGY, stock_server

from apps.settings import Site
from labeling_protocols.agreement import dice
from labeling_protocols.geometry import Volume
from training.bundle import PLAN
from training.inference import Predictor, bundle_weights
from training.plan import Plan
from training.prepared_images import PreparedImages
from training.registry import Registry

SHAPE_ZYX = (128, 256, 256)
IMAGES = 3
DICE_MIN = 0.998


def serving_rows(
    data: Path | None, shape_ZYX: tuple[int, int, int] = SHAPE_ZYX, images: int = IMAGES, epochs: int = 40
) -> list[Row]:
    """`infer`, `click`, and how long others wait meanwhile."""
    pairs = learned_pairs(data)
    volumes = [large_image(pairs, number, shape_ZYX) for number in range(images + 4)]
    small = large_image(pairs, 99, (64, 64, 64))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        site = released_site(Path(folder) / "site", pairs, epochs)
        predictor = _predictor(site)
        plan = Plan.from_json(predictor.bundle.read(PLAN).decode())
        weights = bundle_weights(predictor.bundle)
        ours = running.enter_context(our_server(site, [*volumes, small]))
        named = {f"image{number}": image for number, image in enumerate([*volumes, small])}
        threads = _threads_for(predictor.segmenter.members[0], plan)
        url = running.enter_context(stock_server(Path(folder) / "stock", plan, weights, named, threads))
        session = requests.Session()
        stock = Server(
            url=url, model=MODEL, strategy=STRATEGY, images=list(named), asking=session, reading=requests.Session()
        )
        for server in (ours, stock):
            server.infer(server.images[-1])  # the models are loaded
        ours.infer(ours.images[-1], model=f"{PROTOCOL}-interactive")
        print(f"windows of {plan.patch_RAS}, by {predictor.segmenter.backend.name}; stock with {threads} thread(s)")
        return [
            *_infer(ours, stock, images, predictor, volumes[0]),
            *_meanwhile(ours, stock, images),
        ]


def _infer(ours: Server, stock: Server, images: int, predictor: Predictor, image: Volume) -> list[Row]:
    """Cold, warm and clicks: whoever comes first changes from image to image."""
    cold: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    agreed: list[float] = []
    for number in range(images):
        masks: list[Volume] = []
        for took in (cold, warm):
            took.append(_in_turn(ours, stock, number, masks))
        agreed.append(_agreement(masks[0], masks[1]))
    print(f"masks of both agree with Dice {min(agreed):.4f} at least (mean over structures); wanted {DICE_MIN}")
    clicks = _clicks(ours, masks[0])
    stock_cold, stock_warm = (statistics.median(peer for _, peer in took) for took in (cold, warm))
    again = _computed_again(predictor, image)
    print(
        "infer warm: ours kept the case's prelabel and computes nothing; 'infer warm, computed' is our network run"
        " again on the prepared image, in this process, beside the peer's second request.\n"
        "click: one click on a case whose first answer was made, beside the peer's whole first request."
    )
    return [
        _row("infer cold", statistics.median(mine for mine, _ in cold), stock_cold, goal=3),
        _row("infer warm", statistics.median(mine for mine, _ in warm), stock_warm, goal=5),
        _row("infer warm, computed", again, stock_warm),
        _row("click", statistics.median(clicks), stock_cold, goal=15),
    ]


def _in_turn(ours: Server, stock: Server, number: int, masks: list[Volume]) -> tuple[float, float]:
    took: dict[str, float] = {}
    found: dict[str, Volume] = {}
    for server in (ours, stock) if number % 2 else (stock, ours):
        began = time.perf_counter()
        found[server.url] = server.infer(server.images[number])
        took[server.url] = time.perf_counter() - began
    masks[:] = [found[ours.url], found[stock.url]]
    return took[ours.url], took[stock.url]


def _clicks(ours: Server, mask: Volume, count: int = 9) -> list[float]:
    """Seconds of single clicks here and there, on a case that the interactive model answered before."""
    model, image = f"{PROTOCOL}-interactive", ours.images[0]
    ours.infer(image, model)
    places = np.argwhere(mask.array_ZYX == 1)
    chosen = places[:: max(1, len(places) // (count + 1))][1 : count + 1] if len(places) else [[5, 5, 5]] * count
    ours.infer(image, model, anterior=[[int(n) for n in chosen[0][::-1]]])
    return [
        seconds_of(lambda at=at: ours.infer(image, model, anterior=[[int(n) for n in at[::-1]]]))  # type: ignore[misc]
        for at in chosen
    ]


def _computed_again(predictor: Predictor, image: Volume) -> float:
    segmenter = predictor.segmenter
    segmenter.predict(image, digest="image")
    return statistics.median(seconds_of(lambda: segmenter.predict(image, digest="image")) for _ in range(3))


def _meanwhile(ours: Server, stock: Server, first: int) -> list[Row]:
    """How long `/info/` and Next Sample take while two inferences of new images run."""
    rows = []
    for name, request, number in (("info", Server.info, first), ("next sample", Server.next_sample, first + 2)):
        waits = {}
        for server in (ours, stock):
            request(server)
            waits[server.url] = _waits(server, request, server.images[number : number + 2])
        mine, peer = (1000 * float(np.percentile(waits[server.url], 99)) for server in (ours, stock))
        print(f"{name} while inferring: {len(waits[ours.url])} answers of ours, {len(waits[stock.url])} of the peer's")
        rows.append(_row(f"{name} p99 while inferring", mine, peer, unit="ms"))
    return rows


def _waits(server: Server, request: Callable[[Server], None], images: Sequence[str]) -> list[float]:
    """Seconds of each request, one after the other until both inferences have ended."""
    begun = threading.Barrier(len(images) + 1)

    def infer(image: str) -> None:
        begun.wait()
        replace(server, asking=_same(server.asking)).infer(image)

    with ThreadPoolExecutor(len(images)) as pool:
        running = [pool.submit(infer, image) for image in images]
        begun.wait()
        waits = []
        while not all(one.done() for one in running) or not waits:
            waits.append(seconds_of(lambda: request(server)))
            threading.Event().wait(0.02)  # a viewer's pace, not a flood
        for one in running:
            one.result()
    return waits


def _same(session: requests.Session) -> requests.Session:
    """A session of its own for another thread, of the same account."""
    own = requests.Session()
    own.headers.update(session.headers)
    return own


def _row(name: str, ours: float, peer: float, unit: str = "s", goal: float | None = None) -> Row:
    return Row(name=name, ours=ours, peer=peer, unit=unit, ratio=peer / ours, goal=goal)


def _agreement(a: Volume, b: Volume) -> float:
    values = sorted(set(np.unique(a.array_ZYX)) | set(np.unique(b.array_ZYX)) - {0})
    return statistics.fmean([dice(a.array_ZYX == value, b.array_ZYX == value) for value in values if value] or [1.0])


def _predictor(site: Site) -> Predictor:
    registry = Registry(site.tracking_uri, site.folder("bundles"), site.public_key)
    return Predictor(registry.bundle(registry.champion(PROTOCOL)), "cpu", PreparedImages())


def _threads_for(network: torch.nn.Module, plan: Plan) -> int:
    """As many threads for the peer's torch as make it fastest here: on a busy machine two wait for each other."""
    window, before = torch.randn(1, 1, *plan.patch_RAS), torch.get_num_threads()
    took = {}
    with torch.inference_mode():
        for threads in {1, len(os.sched_getaffinity(0))}:
            torch.set_num_threads(threads)
            network(window)
            took[threads] = statistics.median(seconds_of(lambda: network(window)) for _ in range(5))
    torch.set_num_threads(before)
    return min(took, key=lambda threads: took[threads])
