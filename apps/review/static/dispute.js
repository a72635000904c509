// Shows a disputed case: the image in NiiVue, over it each reader's outlines as lines of his own colour, dash and letter.
import { Volume, fetchNifti } from './volume.js';
import { Outlines } from './outlines.js';
import { PLANES, STYLES, gridOf, hatch, letter, pathOf, stroke, tagPlace } from './drawing.js';

const dispute = JSON.parse(document.getElementById('dispute').textContent);
const byId = (id) => document.getElementById(id);
const [canvas, sheet, place, loading, opacity] = ['canvas', 'outlines', 'place', 'loading', 'opacity'].map(byId);
const layerButtons = [...document.querySelectorAll('button.layer')];
const windowButtons = [...document.querySelectorAll('button.window')];
const channelButtons = [...document.querySelectorAll('button.channel')];
const lesionButtons = [...document.querySelectorAll('button.lesion')];

const TAG_AREA = 6; // voxels: smaller outlines carry no letter
const WINDOWS = { lung: [-1350, 150], soft: [-160, 240], bone: [-500, 1300], brain: [0, 80] }; // Hounsfield units
const PERCENTILES = [0.01, 0.99];
const UP = { ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], PageUp: [0, 0, 5], PageDown: [0, 0, -5] };
const ASIDE = { ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0] };

const files = new Map(); // what was fetched, by the file's name
let volume;
let lesion = -1;
let field; // of the decision, where somebody was last

const viewer = new niivue.Niivue({
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.42, 0.77, 0.72, 0.45],
  crosshairWidth: 0.12,
  crosshairGap: 6,
  isOrientCube: false,
  isRadiologicalConvention: true,
  multiplanarShowRender: 0,
  heroImageFraction: 0.6,
  heroSliceType: 0,
  multiplanarPadPixels: 4,
  dragAndDropEnabled: false,
  loadingText: '',
  logLevel: 'error',
  onLocationChange: (location) => {
    place.textContent = location.mm ? `${[...location.mm].slice(0, 3).map((mm) => mm.toFixed(1)).join(', ')} mm (RAS)` : '';
  },
});

const isOn = (button) => button.getAttribute('aria-pressed') === 'true';
const press = (button, on = !isOn(button)) => button.setAttribute('aria-pressed', String(on));
const styleOf = (name) => STYLES[name] || (dispute.readers.includes(name) ? STYLES.E : STYLES.consensus);
const placeOf = (name) => layerButtons.findIndex((button) => button.dataset.layer === name);
const fileOf = (name) => (dispute.readers.includes(name) ? 'readers' : name);

// Which patterns have a structure in a label, by names that loops are kept under.
function testOf(outlines, label, structure) {
  const at = outlines.labels.indexOf(label);
  return (pattern) => pattern[at].includes(structure.value);
}

function differs(pattern) {
  return pattern.some((values) => values.join() !== pattern[0].join());
}

// Which patterns show readers who differ on what is shown, by the name that loops are kept under.
function differing() {
  const shown = shownStructures().map((structure) => structure.value);
  const test = (pattern) => differs(pattern.map((values) => values.filter((value) => shown.includes(value))));
  return { name: `differs ${shown}`, test };
}

function shownLabels() {
  return layerButtons.filter(isOn).map((button) => button.dataset.layer).filter((name) => files.has(fileOf(name)));
}

function shownStructures() {
  const only = byId('only').value;
  return dispute.structures.filter((structure) => !only || structure.name === only);
}

function drawTile(context, tile) {
  const plane = PLANES[tile.axCorSag];
  const grid = gridOf(tile, plane, volume.item);
  const readers = files.get('readers');
  const [look, differ] = [{ opacity: Number(opacity.value), filled: isOn(byId('fill')) }, differing()];
  if (isOn(byId('differences'))) hatch(context, pathOf(readers.loops(plane, grid.index, differ.name, differ.test), grid), look.opacity);
  const tags = [];
  for (const name of shownLabels()) {
    const outlines = files.get(fileOf(name));
    const style = styleOf(name);
    for (const structure of shownStructures()) {
      const loops = outlines.loops(plane, grid.index, `${name} ${structure.value}`, testOf(outlines, name, structure));
      if (!loops.length) continue;
      stroke(context, pathOf(loops, grid), style, look);
      const largest = loops.reduce((most, loop) => (loop.area > most.area ? loop : most));
      if (largest.area >= TAG_AREA) tags.push({ name, style, ...tagPlace(largest, grid, placeOf(name), layerButtons.length) });
    }
    marks(context, { outlines, name, plane, grid, style, look, tags });
  }
  tags.forEach((tag) => letter(context, tag, tile.leftTopWidthHeight));
}

// Boxes and points of a label in this slice.
function marks(context, { outlines, name, plane, grid, style, look, tags }) {
  const mine = (mark) => mark.label === name && shownStructures().some((structure) => structure.name === mark.structure);
  for (const box of outlines.boxes.filter(mine)) {
    const [a, b] = [outlines.placed(box.low_XYZ), outlines.placed(box.high_XYZ)];
    const [low, high] = [a.map((value, axis) => Math.min(value, b[axis])), a.map((value, axis) => Math.max(value, b[axis]))];
    if (grid.index < low[plane.through] - 0.5 || grid.index > high[plane.through] + 0.5) continue;
    const [x0, x1] = [low, high].map((corner) => grid.x(corner[plane.across] + 0.5));
    const [y0, y1] = [low, high].map((corner) => grid.y(corner[plane.up] + 0.5));
    const path = new Path2D();
    path.rect(x0, y1, x1 - x0, y0 - y1);
    stroke(context, path, style, look);
    tags.push({ name, style, x: x0 - 8, y: y1 + 14 * placeOf(name) });
  }
  for (const point of outlines.points.filter(mine)) {
    const at = outlines.placed(point.place_XYZ);
    if (Math.abs(at[plane.through] - grid.index) > 1) continue;
    const [x, y] = [grid.x(at[plane.across] + 0.5), grid.y(at[plane.up] + 0.5)];
    const path = new Path2D();
    [[7, 0], [0, 7]].forEach(([dx, dy]) => { path.moveTo(x - dx, y - dy); path.lineTo(x + dx, y + dy); });
    stroke(context, path, { ...style, dash: [] }, look);
    tags.push({ name, style, x: x + 12, y: y + 12 * placeOf(name) - 8 });
  }
}

function drawOutlines() {
  sheet.width = canvas.width;
  sheet.height = canvas.height;
  if (!files.has('readers') || !volume) return;
  const context = sheet.getContext('2d');
  context.lineJoin = 'round';
  for (const tile of viewer.screenSlices.filter((candidate) => candidate.axCorSag <= 2)) {
    context.save();
    context.beginPath();
    context.rect(...tile.leftTopWidthHeight);
    context.clip();
    drawTile(context, tile);
    context.restore();
  }
}

// Go to a place in voxels of the viewer's axes, or in millimetres.
function lookAt(fraction) {
  viewer.scene.crosshairPos = fraction;
  viewer.createOnLocationChange();
  viewer.drawScene();
}

function fractionOf(voxel) {
  return voxel.map((value, axis) => (value + 0.5) / volume.item.dimsRAS[axis + 1]);
}

function lookAtDisagreement() {
  const outlines = files.get('readers');
  const found = outlines.fullest(differing().test);
  const mark = outlines.points[0]?.place_XYZ || outlines.boxes[0]?.low_XYZ.map((low, axis) => (low + outlines.boxes[0].high_XYZ[axis]) / 2);
  if (found) lookAt(fractionOf(found));
  else lookAt(mark ? fractionOf(outlines.placed(mark)) : [0.5, 0.5, 0.5]);
}

function lookAtLesion(step) {
  if (!lesionButtons.length) return;
  const first = lesion < 0 && step < 0 ? 0 : lesion;
  lesion = (first + step + lesionButtons.length) % lesionButtons.length;
  showLesion(lesion);
}

function showLesion(index) {
  lesion = index;
  lesionButtons.forEach((button, at) => (at === index ? button.setAttribute('aria-current', 'true') : button.removeAttribute('aria-current')));
  const button = lesionButtons[index];
  byId('where').textContent = `Lesion ${index + 1} of ${lesionButtons.length}: ${button.dataset.title}`;
  button.scrollIntoView({ block: 'nearest' });
  lookAt(viewer.mm2frac(JSON.parse(button.dataset.centre)));
}

async function toggleLayer(button) {
  press(button);
  const file = fileOf(button.dataset.layer);
  if (isOn(button) && !files.has(file)) await fetchOutlines(file);
  drawOutlines();
}

async function fetchOutlines(file) {
  files.set(file, new Outlines(await fetchNifti(`${dispute.folder}/outlines-${file}.nii`), volume.item));
}

// A label that changed since it was fetched, such as a new revision of the adjudicator's own edit.
export async function renewed(name) {
  files.delete(name);
  const button = layerButtons.find((candidate) => candidate.dataset.layer === name);
  if (!button) return;
  button.hidden = false;
  press(button, true);
  await fetchOutlines(name);
  drawOutlines();
}

function windowOf(name) {
  return WINDOWS[name] || volume.percentiles(...(name === 'full' ? [0, 1] : PERCENTILES));
}

function setWindow(button) {
  windowButtons.forEach((other) => press(other, other === button));
  volume.window(viewer, windowOf(button.dataset.window));
}

function after(buttons) {
  return buttons[(buttons.findIndex(isOn) + 1) % buttons.length];
}

// Values mean something else in each channel: it opens in its own window of the kind that is chosen.
async function setChannel(button) {
  channelButtons.forEach((other) => press(other, other === button));
  const { channel } = button.dataset;
  const address = `${dispute.folder}/image.nii?channel=${encodeURIComponent(channel)}`;
  const key = `channel ${channel}`;
  if (!files.has(key)) files.set(key, fetchNifti(address));
  try {
    const image = await files.get(key);
    if (!isOn(button)) return; // another one was asked for in the meantime
    loading.hidden = true;
    volume.show(image);
    setWindow(windowButtons.find(isOn));
    byId('where').textContent = `Channel ${channel}`;
  } catch (error) {
    files.delete(key);
    loading.textContent = `Channel ${channel} could not be shown: ${error.message}.`;
    loading.hidden = false;
  }
}

function allOutlines() {
  const readers = layerButtons.filter((button) => dispute.readers.includes(button.dataset.layer));
  const on = !readers.some(isOn);
  readers.forEach((button) => press(button, on));
  drawOutlines();
}

function setOpacity(step) {
  opacity.value = String(Number(opacity.value) + step);
  drawOutlines();
}

function move(steps) {
  viewer.moveCrosshairInVox(...steps);
  viewer.drawScene();
}

async function open() {
  const fetched = Promise.all(['image', 'outlines-readers'].map((name) => fetchNifti(`${dispute.folder}/${name}.nii`)));
  performance.mark('begun');
  await viewer.attachToCanvas(canvas);
  performance.mark('viewer');
  const [image, readers] = await fetched;
  performance.mark('fetched');
  volume = new Volume(image);
  const first = windowButtons.find(isOn);
  await volume.attach(viewer, windowOf(first.dataset.window));
  files.set('readers', new Outlines(readers, volume.item));
  performance.mark('attached');
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  const drawScene = viewer.drawScene.bind(viewer);
  viewer.drawScene = () => {
    const drawn = drawScene();
    drawOutlines();
    return drawn;
  };
  lookAtDisagreement();
  loading.hidden = true;
  document.body.dataset.shown = 'true';
  performance.mark('shown');
}

const ACTS = {
  m: () => layerButtons.filter((button) => button.dataset.layer === dispute.rule).forEach(toggleLayer),
  f: () => { press(byId('fill')); drawOutlines(); },
  x: () => { press(byId('differences')); drawOutlines(); },
  o: allOutlines,
  d: lookAtDisagreement,
  n: () => lookAtLesion(1),
  p: () => lookAtLesion(-1),
  w: () => setWindow(after(windowButtons)),
  i: () => channelButtons.length && setChannel(after(channelButtons)),
  '+': () => setOpacity(0.1),
  '-': () => setOpacity(-0.1),
  '?': () => byId('keys').showModal(),
  c: () => (field || byId('decision').querySelector('select')).focus(),
  e: () => byId('edit-base')?.focus(),
};

document.addEventListener('keydown', (event) => {
  const typing = event.target.matches('textarea, select, input:not([type=range])');
  if (typing && event.key === 'Escape') canvas.focus();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || byId('keys').open || !volume) return;
  const steps = event.target === canvas ? (event.shiftKey ? ASIDE : UP)[event.key] || ASIDE[event.key] : { PageUp: UP.ArrowUp, PageDown: UP.ArrowDown }[event.key];
  const act = steps ? () => move(steps) : ACTS[event.key.toLowerCase()] || readerKey(event.key);
  if (act) {
    act();
    event.preventDefault();
  }
  if (act || (event.target === canvas && event.key !== 'Tab')) event.stopPropagation(); // NiiVue has keys of its own
}, true);

function readerKey(key) {
  const name = /^[1-9]$/.test(key) ? dispute.readers[Number(key) - 1] : undefined;
  return name && (() => toggleLayer(layerButtons.find((button) => button.dataset.layer === name)));
}

layerButtons.forEach((button) => button.addEventListener('click', () => toggleLayer(button)));
windowButtons.forEach((button) => button.addEventListener('click', () => setWindow(button)));
channelButtons.forEach((button) => button.addEventListener('click', () => setChannel(button)));
lesionButtons.forEach((button, index) => button.addEventListener('click', () => showLesion(index)));
opacity.addEventListener('input', drawOutlines);
byId('only').addEventListener('change', drawOutlines);
byId('decision').addEventListener('focusin', ({ target }) => { field = target.matches('select, textarea, input') ? target : field; });
[['fill', ACTS.f], ['differences', ACTS.x], ['focus', ACTS.d], ['next-lesion', ACTS.n], ['previous-lesion', ACTS.p], ['help', ACTS['?']]]
  .forEach(([id, act]) => byId(id)?.addEventListener('click', act));

open().catch((error) => {
  loading.textContent = `The images could not be shown: ${error.message}. The figures beside are complete.`;
});
