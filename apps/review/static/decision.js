// The decision beside the images: what is still missing is said as it is written, and a refusal keeps the images loaded.
import { renewed } from './dispute.js';

const form = document.getElementById('decision');
const count = document.getElementById('count');
const rationale = form.elements.rationale;
const problem = document.getElementById('problem');

function sayCount() {
  const least = Number(count.dataset.min);
  const missing = least - rationale.value.trim().length;
  count.textContent = missing > 0 ? `${missing} more ${missing === 1 ? 'character' : 'characters'} of at least ${least}` : '✓ long enough';
}

function say(words) {
  problem.textContent = words;
  problem.hidden = false;
  problem.scrollIntoView({ block: 'nearest' });
}

async function sign(event) {
  event.preventDefault();
  const button = form.querySelector('button.main');
  button.disabled = true;
  try {
    const answer = await fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)), headers: { Accept: 'text/html' } });
    if (answer.redirected) {
      window.location.assign(answer.url);
      return;
    }
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    say(page.querySelector('[role=alert]:not([hidden])')?.textContent.trim() || `The server answered ${answer.status}. Nothing was decided.`);
  } catch {
    say('The server could not be reached. Nothing was decided.');
  }
  button.disabled = false;
}

// An edit saved in 3D Slicer becomes one of the choices.
function takeEdit(event) {
  const panel = event.target.closest?.('#edit') || document.getElementById('edit');
  const revision = Number(panel.dataset.revision);
  if (!revision) return;
  document.querySelectorAll('option[value=edit]').forEach((option) => {
    option.textContent = `My edit, revision ${revision}`;
    option.hidden = false;
    option.disabled = false;
  });
  renewed('edit');
}

rationale.addEventListener('input', sayCount);
form.addEventListener('submit', sign);
document.body.addEventListener('htmx:afterSwap', takeEdit);
sayCount();
