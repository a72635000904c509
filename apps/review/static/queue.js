// The queue by keyboard: N opens the next dispute, J and K move between those that can be opened.

const buttons = () => [...document.querySelectorAll('#queue button.open')];

function go(step) {
  const all = buttons();
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + step));
  all[next].focus();
}

const ACTS = { n: () => buttons()[0]?.click(), j: () => go(1), k: () => go(-1) };

document.addEventListener('keydown', (event) => {
  const typing = event.target.matches('textarea, select, input');
  const act = ACTS[event.key.toLowerCase()];
  if (typing || !act || event.ctrlKey || event.metaKey || event.altKey) return;
  act();
  event.preventDefault();
});
