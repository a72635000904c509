// What the server keeps of a case: labels out, as volumes with their answers, and a reader's outlines in.
import { ask, askIfAny, json } from './server.js';
import { decode, encode } from './nrrd.js';

// { volume, answers, settled } of the label of a tag; null where there is none, or none for this reader.
export async function storedLabel(told, tag) {
  const which = `label=${encodeURIComponent(told.case)}&tag=${tag}`;
  const answer = await askIfAny(`/datastore/label?${which}`);
  if (!answer) {
    return null;
  }
  const { answers = {}, params = {} } = await json(ask(`/datastore/label/info?${which}`));
  return { volume: await decode(await answer.arrayBuffer()), answers, settled: Boolean(params.settled) };
}

// Save outlines, with answers where the protocol asks any; which revision they are.
export async function saveLabel(told, volume, answers, seconds) {
  const given = Object.fromEntries(Object.entries(answers).filter(([, answer]) => answer !== null));
  const said = { seconds, ...(told.questions.length ? { answers: given } : {}) };
  const form = new FormData();
  form.set('label', await encode(volume), 'label.nrrd');
  form.set('params', JSON.stringify(said));
  const address = `/ohif/cases/${encodeURIComponent(told.case)}/label`;
  return (await json(ask(address, { method: 'PUT', body: form }))).revision;
}
