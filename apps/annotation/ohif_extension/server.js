// Questions to this server, in the name of who is signed in; what it refuses is an error with its words.

export const token = document.querySelector('meta[name="overread-csrf"]')?.content ?? '';

export class Refused extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

export async function ask(path, { method = 'GET', json, body, signal } = {}) {
  const headers = method === 'GET' ? {} : { 'X-CSRF-Token': token };
  if (json !== undefined) {
    headers['Content-Type'] = 'application/json';
    body = JSON.stringify(json);
  }
  const answer = await fetch(path, { method, headers, body, signal, credentials: 'same-origin' });
  if (answer.ok) {
    return answer;
  }
  throw new Refused(await wordsOf(answer), answer.status);
}

// The same, where a thing may not be there or not be shown to the caller: then null.
export async function askIfAny(path) {
  try {
    return await ask(path);
  } catch (error) {
    if (error instanceof Refused && [403, 404].includes(error.status)) {
      return null;
    }
    throw error;
  }
}

export const json = async answer => (await answer).json();

// The caller's next case as /ohif/cases tells it, or null where nothing is left.
export async function nextCase() {
  const { id } = await json(ask('/activelearning/worklist', { method: 'POST', json: {} }));
  return id ? json(ask(`/ohif/cases/${encodeURIComponent(id)}`)) : null;
}

async function wordsOf(answer) {
  if (answer.status === 401) {
    return 'You are signed out. Sign in again in another tab, then go on here: what you drew is still in this page.';
  }
  try {
    const { detail } = await answer.json();
    return String(detail);
  } catch {
    return `The server answered ${answer.status} and did not say why.`;
  }
}
