// The server's models in OHIF: which there are for a case, and what one proposes there, in the protocol's values.
import { ask, json } from './server.js';
import { decode } from './nrrd.js';

const LOOK_MS = 1000;
const AUTOMATIC = 'segmentation';
const INTERACTIVE = ['deepedit', 'deepgrow'];
const OF_ANY_PROTOCOL = /^(bundle-|nninteractive)/;

export const takesPoints = model => INTERACTIVE.includes(model.type);

export async function modelsFor(told) {
  const { models } = await json(ask('/info/'));
  return Object.entries(models)
    .map(([name, model]) => ({ name, type: model.type, description: model.description ?? name }))
    .filter(({ name, type }) => {
      const own = name === told.protocol || name.startsWith(`${told.protocol}-`);
      return (own || OF_ANY_PROTOCOL.test(name)) && (type === AUTOMATIC || INTERACTIVE.includes(type));
    });
}

// What a model proposes: { volume, model, only }. `only` is the value of the one structure that was asked for, null
// where the answer is of all of them. `marks` are the reader's points and box (`points.js`).
export async function propose(model, told, marks, label, { signal, onPlace }) {
  const body = new FormData();
  body.set('params', JSON.stringify({ ...askedWith(model, marks, label), result_extension: '.nrrd' }));
  const address = `/infer/${encodeURIComponent(model.name)}?image=${encodeURIComponent(told.case)}&output=all`;
  const stop = watchPlace(model.name, onPlace);
  try {
    const form = await (await ask(address, { method: 'POST', body, signal })).formData();
    const params = JSON.parse(form.get('params'));
    const volume = await decode(await form.get('image').arrayBuffer());
    const only = model.type === 'deepgrow' ? told.structures.find(({ name }) => name === label)?.value : null;
    volume.values = inProtocolValues(volume.values, params.label_names ?? {}, told, only);
    return { volume, model: params.model ?? model.name, only };
  } finally {
    stop();
  }
}

// A "deepedit" model is sent points by structure, a "deepgrow" one those of one structure as "foreground".
function askedWith(model, { byName: points, box }, label) {
  if (!takesPoints(model)) {
    return {};
  }
  if (model.type === 'deepgrow') {
    const roi = box?.label === label ? { roi: box.roi } : {};
    return { label, foreground: points[label] ?? [], background: points.background ?? [], ...roi };
  }
  return { ...points, ...box };
}

function inProtocolValues(values, names, told, only) {
  const meant = new Uint8Array(256);
  const found = [...new Set(values)].filter(Boolean);
  const nameOf = new Map(Object.entries(names).map(([name, value]) => [value, name]));
  for (const value of found) {
    const structure = told.structures.find(({ name }) => name === nameOf.get(value));
    if (!structure && !only) {
      throw new Error(
        `The model drew ${nameOf.get(value) ?? `the value ${value}`}, which this protocol does not ask for. Nothing was drawn.`
      );
    }
    meant[value] = structure?.value ?? only;
  }
  return values.map(value => meant[value]);
}

// Tell how many are before us until stopped.
function watchPlace(name, onPlace) {
  const look = async () => {
    try {
      const { own } = await json(ask('/infer/queue'));
      const place = own.find(({ model }) => model === name);
      if (place) {
        onPlace(place.position);
      }
    } catch {
      // Where we stand is told for comfort; the answer itself comes by another way.
    }
  };
  const timer = setInterval(look, LOOK_MS);
  return () => clearInterval(timer);
}
