// What a reader does with a case in OHIF: it is opened, drawn by models and by hand, submitted or given back.
//
// The panel shows `state`, whose every change comes through `_now`.
import { ask, json, nextCase } from './server.js';
import { modelsFor, propose, takesPoints } from './models.js';
import { Outline } from './outline.js';
import { Points } from './points.js';
import { saveLabel, storedLabel } from './reads.js';
import { Stopwatch } from './stopwatch.js';

const NOTHING = {
  told: null, // the case, as /ohif/cases tells it
  choices: [], // cases of the series shown, where there are several and none was named
  models: [],
  answers: {},
  picking: null, // { name, boxed }: whose points, or box, are being set
  marks: 0,
  running: null, // words for what a model, or the server, does now
  unsaved: false,
  saved: false, // whether there is a read of his already
  blocked: false, // what he saved cannot be shown, so that nothing may be saved over it
  words: '',
  wrong: false,
};

export class Work {
  constructor({ services }) {
    this.services = services;
    this.state = { ...NOTHING };
    this.panel = null;
    this._leaving = event => this.state.unsaved && event.preventDefault();
  }

  begin() {
    const { displaySetService, segmentationService, cornerstoneViewportService } = this.services;
    const follow = (service, event, what) => service.subscribe(event, what).unsubscribe;
    this._stop = [
      follow(displaySetService, displaySetService.EVENTS.DISPLAY_SETS_ADDED, () => this._find()),
      follow(cornerstoneViewportService, cornerstoneViewportService.EVENTS.VIEWPORT_DATA_CHANGED, () => this._shown()),
      follow(segmentationService, segmentationService.EVENTS.SEGMENTATION_DATA_MODIFIED, changed => this._drawn(changed)),
    ];
    window.addEventListener('beforeunload', this._leaving);
    this._find();
  }

  end() {
    this._stop?.forEach(stop => stop());
    window.removeEventListener('beforeunload', this._leaving);
    this.points?.end();
    this._abort?.abort();
    Object.assign(this, { outline: null, displaySet: null, points: null, _finding: false });
    this._now({ ...NOTHING });
  }

  // Opening

  async _find() {
    const named = new URLSearchParams(window.location.search).get('case');
    const series = this._series();
    if (this._finding || !series.length) {
      return;
    }
    this._finding = true;
    await this._trying(async () => {
      const cases = named
        ? [await json(ask(`/ohif/cases/${encodeURIComponent(named)}`))]
        : (await Promise.all(series.map(of => json(ask(`/ohif/cases?series=${of}`))))).flatMap(({ cases }) => cases);
      const mine = cases.filter(({ yours }) => yours);
      if (mine.length === 1 || cases.length === 1) {
        await this.open(mine[0] ?? cases[0]);
      } else {
        const words = cases.length ? 'This study is several cases; choose the one you work on.' : 'No series of this study is a case.';
        this._now({ choices: cases, words });
      }
    });
  }

  async open(told) {
    const displaySet = this.services.displaySetService
      .getActiveDisplaySets()
      .find(({ SeriesInstanceUID, images }) => SeriesInstanceUID === told.series && images?.length);
    if (!displaySet) {
      throw new Error(told.why || 'The series of this case is not in the study that is shown.');
    }
    this._now({ ...NOTHING, told, words: 'Opening …' });
    this.displaySet = displaySet;
    this.points = new Points(this.services, told, () => this._pointed());
    this.watch = new Stopwatch();
    await this._shown();
  }

  // Once a viewport shows the series the outlines can be drawn there; later ones, as of another layout, join in.
  async _shown() {
    if (!this.displaySet || !this._isShown()) {
      return;
    }
    await this._trying(async () => {
      if (!this.outline) {
        this.outline = new Outline(this.services, this.state.told, this.displaySet);
        await this.renew();
        this._now({ models: await modelsFor(this.state.told) });
      } else if (this.outline.exists) {
        await this.outline.show();
      }
    });
  }

  async startAgain() {
    if (!this.state.unsaved || window.confirm('Your outlines are not submitted. Begin again without them?')) {
      await this._trying(() => this.renew());
    }
  }

  // Begin with what was saved before, else with what a model proposed where that is shown, else with nothing.
  async renew() {
    if (!this.outline.exists) {
      await this.outline.create();
    }
    this._before = null;
    this._now({ blocked: true });
    const { told } = this.state;
    const own = told.yours ? await storedLabel(told, 'final') : null;
    const begun = own ?? (told.yours ? await storedLabel(told, 'original') : null);
    await this._write(begun?.volume ?? this._blank());
    await this.outline.turnTo();
    const words = own
      ? own.settled
        ? 'This case is settled; you see what came of it.'
        : 'You go on with what you saved last.'
      : begun
        ? 'You begin with what a model proposed.'
        : 'Draw with the tools on the right, or let a model begin.';
    this._now({ words, answers: own?.answers ?? {}, saved: Boolean(own), unsaved: false, blocked: false });
  }

  // Models

  async run(model, label = null) {
    if (this.state.running) {
      this._again = () => this.run(model, label); // a point set meanwhile is answered next
      return;
    }
    this._abort = new AbortController();
    this._now({ running: `${model.name} works …`, words: '', wrong: false });
    await this._trying(async () => {
      const onPlace = place => this._now({ running: place ? `${model.name} waits; ${place} before it` : `${model.name} works …` });
      const how = { signal: this._abort.signal, onPlace };
      const proposed = await propose(model, this.state.told, this.points, label, how);
      this._before = this.outline.read().values;
      await this._write(proposed.only ? this._joined(proposed) : proposed.volume);
      if (!takesPoints(model)) {
        await this.outline.turnTo(); // who clicks stays where he clicked
      }
      this._now({ words: `${proposed.model} proposed this. Check and correct it.`, unsaved: true });
    });
    this._now({ running: null });
    const again = this._again;
    this._again = null;
    await again?.();
  }

  cancel() {
    this._again = null;
    this._abort?.abort();
  }

  get canUndo() {
    return Boolean(this._before);
  }

  async undo() {
    await this._trying(() => this._write({ ...this.state.told.grid, values: this._before }));
    this._before = null;
    this._now({ words: 'The outlines are as they were before the model.' });
  }

  // Set points of a structure, or its box, with the next clicks; once more gives the mouse its former tool back.
  pick(name, boxed = false) {
    const { picking } = this.state;
    const again = picking?.name === name && picking.boxed === boxed;
    this.points.pick(again ? null : name, boxed);
    const words = boxed && !again ? 'Draw a rectangle round it on its first slice, and another on its last.' : '';
    this._now({ picking: again ? null : { name, boxed }, words });
  }

  clearPoints() {
    this.points.clear();
    this._now({ marks: 0 });
  }

  // Leaving

  async submit() {
    this._now({ running: 'Saving …', wrong: false });
    await this._trying(async () => {
      const { told, answers } = this.state;
      const revision = await saveLabel(told, this.outline.read(), answers, this.watch.seconds);
      this.watch.restart();
      this._now({ saved: true, unsaved: false, words: `Saved: this is revision ${revision} of yours.` });
    });
    this._now({ running: null });
  }

  async skip(reason) {
    await this._trying(async () => {
      const id = encodeURIComponent(this.state.told.case);
      await ask(`/worklist/skip?case=${id}`, { method: 'POST', json: { reason } });
      this._now({ unsaved: false });
      await this.next();
    });
  }

  async next() {
    if (this.state.unsaved && !window.confirm('Your outlines are not submitted. Leave them?')) {
      return;
    }
    await this._trying(async () => {
      const told = await nextCase();
      if (told?.address) {
        this._now({ unsaved: false });
        window.location.assign(told.address);
      } else {
        this._now({ words: told ? told.why : 'No case is left for you. Thank you.' });
      }
    });
  }

  answer(name, value) {
    this._now({ answers: { ...this.state.answers, [name]: value }, unsaved: true });
  }

  // Inside

  _series() {
    const sets = this.services.displaySetService.getActiveDisplaySets();
    return [...new Set(sets.filter(({ images }) => images?.length).map(({ SeriesInstanceUID }) => SeriesInstanceUID))];
  }

  _isShown() {
    const { viewportGridService, cornerstoneViewportService } = this.services;
    const uid = this.displaySet.displaySetInstanceUID;
    return Boolean(this.displaySet.imageIds?.length) && [...viewportGridService.getState().viewports].some(
      ([id, { displaySetInstanceUIDs }]) =>
        displaySetInstanceUIDs?.includes(uid) && cornerstoneViewportService.getCornerstoneViewport(id)
    );
  }

  _blank() {
    const { size_XYZ, affine_LPS } = this.state.told.grid;
    return { size_XYZ, affine_LPS, values: new Uint8Array(size_XYZ[0] * size_XYZ[1] * size_XYZ[2]) };
  }

  async _write(volume) {
    if (!this.outline.exists) {
      await this.outline.create();
    }
    this.outline.write(volume);
  }

  // The answer of a model that draws one structure, within what is drawn of the others.
  _joined({ volume, only }) {
    const values = this._before.map((value, i) => (volume.values[i] ? only : value === only ? 0 : value));
    return { ...volume, values };
  }

  _drawn({ segmentationId }) {
    if (segmentationId === this.outline?.id && !this.state.unsaved) {
      this._now({ unsaved: true });
    }
  }

  async _pointed() {
    this._now({ marks: this.points.marks.length });
    const model = this.state.models.find(takesPoints);
    const { picking } = this.state;
    const { roi } = this.points.box ?? {};
    if (picking?.boxed && roi[4] === roi[5]) {
      this._now({ words: 'Now draw a rectangle on its last slice.' });
    } else if (model) {
      await this.run(model, picking?.name);
    }
  }

  async _trying(what) {
    try {
      await what();
    } catch (error) {
      const words = error.name === 'AbortError' ? 'Stopped; nothing was drawn.' : error.message;
      this._now({ words, wrong: error.name !== 'AbortError' });
    }
  }

  _now(change) {
    Object.assign(this.state, change);
    this.panel?.draw();
  }
}
