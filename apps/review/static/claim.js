// Keeps a dispute for whoever is at work on its page, and says there when it is his no longer. Nothing is asked while
// nobody moves, and at most once in a while otherwise.

const told = document.getElementById('claim');
const until = document.getElementById('until');
const csrf = document.querySelector('input[name=csrf]').value;

const LEASE_MS = 1000 * Number(told.dataset.leaseS);
const RENEW_AFTER_MS = 10 * 60_000; // of the lease
const WARN_MS = 5 * 60_000; // before its end
const ASK_AGAIN_MS = 20_000; // after an answer that decided nothing

let ends = Date.now() + 1000 * Number(told.dataset.leftS);
let asked = -Infinity;
let lost = false;
let timer;

const clock = (moment) => `${new Date(moment).toISOString().slice(11, 16)} UTC`;

function say(words) {
  told.textContent = words;
  told.hidden = !words;
}

function watch() {
  clearTimeout(timer);
  const left = ends - Date.now();
  if (lost) return;
  if (left <= 0) say(`Your time with this dispute ended at ${until.textContent}: others can take it now. Go on here to take it again.`);
  else if (left <= WARN_MS) say(`Your time with this dispute ends at ${until.textContent}. Go on here to keep it.`);
  else say('');
  if (left > 0) timer = setTimeout(watch, left > WARN_MS ? left - WARN_MS : left);
}

function lose(words) {
  lost = true;
  say(`${words.replace(/\.?$/, '.')} Nothing can be decided here any more; what you wrote stays until you leave this page.`);
  document.querySelectorAll('.panel form button').forEach((button) => { button.disabled = true; });
  until.parentElement.hidden = true;
}

// Ask for the dispute anew: it stays the caller's, or becomes his again where nobody took it meanwhile.
async function renew() {
  asked = Date.now();
  const answer = await fetch(told.dataset.address, { method: 'POST', headers: { 'X-CSRF-Token': csrf } }).catch(() => null);
  const content = await answer?.json().catch(() => ({}));
  if (answer?.ok) {
    ends = Date.now() + Date.parse(content.held_until) - Date.parse(answer.headers.get('date'));
    until.textContent = clock(Date.parse(content.held_until));
    watch();
  } else if (answer?.status === 401) say('You are signed out. Sign in again in another window, then go on here; what you wrote stays.');
  else if (answer && answer.status < 500) lose(content.detail || `The server answered ${answer.status}`);
}

function active() {
  const now = Date.now();
  if (!lost && ends - now < LEASE_MS - RENEW_AFTER_MS && now - asked > ASK_AGAIN_MS) renew();
}

['pointerdown', 'pointermove', 'wheel', 'keydown', 'input'].forEach((kind) => window.addEventListener(kind, active, { capture: true, passive: true }));
document.addEventListener('visibilitychange', watch);
document.body.addEventListener('htmx:responseError', () => { if (!lost) renew(); });
document.body.addEventListener('htmx:beforeRequest', (event) => { if (lost) event.preventDefault(); });
watch();
