// Shows a disputed case: the image in NiiVue, and over it each reader's outline as lines of his own colour and dash.
'use strict';

const dispute = JSON.parse(document.getElementById('dispute').textContent);
const canvas = document.getElementById('canvas');
const sheet = document.getElementById('outlines');
const place = document.getElementById('place');
const fill = document.getElementById('fill');
const opacity = document.getElementById('opacity');
const buttons = [...document.querySelectorAll('button.layer')];

// Colour and dash of a layer, as in review.css: never colour alone. The structures of a layer are its shades.
const STYLES = {
  A: { color: [255, 176, 0], dash: [] },
  B: { color: [76, 201, 240], dash: [0.62, 0.38] },
  C: { color: [224, 123, 224], dash: [0.25, 0.25] },
  D: { color: [163, 217, 93], dash: [0.8, 0.2] },
  majority: { color: [244, 244, 244], dash: [0.3, 0.7] },
};
const LINE_PX = 2;
const layers = [
  ...dispute.reads.map((read) => ({ name: read.letter, url: read.label })),
  { name: 'majority', url: dispute.majority },
];

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

function styleOf(name) {
  return STYLES[name] || STYLES.D;
}

function shade(name, index) {
  const factor = 1 - 0.22 * (index / Math.max(1, dispute.structures.length - 1 || 1));
  return styleOf(name).color.map((channel) => Math.round(channel * factor));
}

function colormap(name) {
  const colors = [[0, 0, 0], ...dispute.structures.map((_, index) => shade(name, index))];
  return {
    R: colors.map((color) => color[0]),
    G: colors.map((color) => color[1]),
    B: colors.map((color) => color[2]),
    A: colors.map((_, index) => (index === 0 ? 0 : 255)),
    I: [0, ...dispute.structures.map((structure) => structure.value)],
    labels: ['', ...dispute.structures.map((structure) => structure.title)],
  };
}

function isOn(button) {
  return button.getAttribute('aria-pressed') === 'true';
}

function shownLayers() {
  return layers.filter((layer) => isOn(buttons.find((button) => button.dataset.layer === layer.name)));
}

// Where voxel edges of a 2D view lie on the canvas. NiiVue's views are straight: millimetres map linearly to pixels.
function edges(tile, axis, along) {
  const volume = viewer.volumes[0];
  const [from, to] = [volume.extentsMinOrtho[axis], volume.extentsMaxOrtho[axis]];
  const count = volume.dimsRAS[axis + 1];
  const [left, top, width, height] = tile.leftTopWidthHeight;
  return Array.from({ length: count + 1 }, (_, index) => {
    const mm = from + ((to - from) * index) / count;
    const share = (mm - tile.leftTopMM[along]) / tile.fovMM[along];
    return along === 0 ? left + share * width : top + (1 - share) * height;
  });
}

// The outline of every structure in one view: each voxel edge across which the label changes.
function outlineTile(context, tile, layer, labels, dims) {
  const [across, up, through] = [[0, 1, 2], [0, 2, 1], [1, 2, 0]][tile.axCorSag];
  const strides = [1, dims[1], dims[1] * dims[2]];
  const counts = [dims[across + 1], dims[up + 1]];
  const slice = Math.min(dims[through + 1] - 1, Math.floor(tile.sliceFrac * dims[through + 1])) * strides[through];
  const at = (i, j) => (i < 0 || j < 0 || i >= counts[0] || j >= counts[1] ? 0 : labels[slice + i * strides[across] + j * strides[up]]);
  const xs = edges(tile, across, 0);
  const ys = edges(tile, up, 1);
  const voxel = Math.abs(xs[1] - xs[0]);
  const paths = new Map(dispute.structures.map((structure) => [structure.value, new Path2D()]));
  const stroke = (path, x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
  for (let j = 0; j < counts[1]; j += 1) {
    for (let i = 0; i < counts[0]; i += 1) {
      const path = paths.get(at(i, j));
      if (!path) continue;
      const value = at(i, j);
      if (at(i - 1, j) !== value) stroke(path, xs[i], ys[j], xs[i], ys[j + 1]);
      if (at(i + 1, j) !== value) stroke(path, xs[i + 1], ys[j], xs[i + 1], ys[j + 1]);
      if (at(i, j - 1) !== value) stroke(path, xs[i], ys[j], xs[i + 1], ys[j]);
      if (at(i, j + 1) !== value) stroke(path, xs[i], ys[j + 1], xs[i + 1], ys[j + 1]);
    }
  }
  context.setLineDash(styleOf(layer.name).dash.map((share) => share * Math.max(voxel, 6)));
  dispute.structures.forEach((structure, index) => {
    context.strokeStyle = `rgb(${shade(layer.name, index).join(' ')})`;
    context.stroke(paths.get(structure.value));
  });
}

function drawOutlines() {
  sheet.width = canvas.width;
  sheet.height = canvas.height;
  if (isOn(fill) || viewer.volumes.length <= layers.length) return;
  const context = sheet.getContext('2d');
  context.lineWidth = LINE_PX * (window.devicePixelRatio || 1);
  context.globalAlpha = Number(opacity.value);
  context.lineCap = 'square';
  for (const tile of viewer.screenSlices.filter((candidate) => candidate.axCorSag <= 2)) {
    context.save();
    context.beginPath();
    context.rect(...tile.leftTopWidthHeight);
    context.clip();
    shownLayers().forEach((layer) => outlineTile(context, tile, layer, layer.labels, viewer.volumes[0].dimsRAS));
    context.restore();
  }
}

function draw() {
  const shown = shownLayers();
  layers.forEach((layer, index) => {
    viewer.volumes[index + 1].opacity = isOn(fill) && shown.includes(layer) ? 0.7 * Number(opacity.value) : 0;
  });
  viewer.updateGLVolume();
  viewer.drawScene();
}

function toggle(button) {
  button.setAttribute('aria-pressed', String(!isOn(button)));
  draw();
}

function lookAtDisagreement() {
  viewer.scene.crosshairPos = viewer.mm2frac(dispute.focus_mm_RAS);
  viewer.createOnLocationChange();
  viewer.drawScene();
}

async function open() {
  await viewer.attachToCanvas(canvas);
  await viewer.loadVolumes([
    { url: dispute.image, name: 'image.nii.gz' },
    ...layers.map((layer) => ({ url: layer.url, name: `${layer.name}.nii.gz`, opacity: 0 })),
  ]);
  layers.forEach((layer, index) => {
    const volume = viewer.volumes[index + 1];
    volume.setColormapLabel(colormap(layer.name));
    layer.labels = volume.img2RAS();
  });
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  const drawScene = viewer.drawScene.bind(viewer);
  viewer.drawScene = () => {
    const drawn = drawScene();
    drawOutlines();
    return drawn;
  };
  draw();
  lookAtDisagreement();
  document.getElementById('loading').hidden = true;
  document.body.dataset.shown = 'true';
}

buttons.forEach((button) => button.addEventListener('click', () => toggle(button)));
fill.addEventListener('click', () => toggle(fill));
opacity.addEventListener('input', draw);
document.getElementById('focus').addEventListener('click', lookAtDisagreement);

document.addEventListener('keydown', (event) => {
  const typing = event.target.matches('textarea, input:not([type=range], [type=radio])');
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (/^[1-9]$/.test(key) && Number(key) <= dispute.reads.length) toggle(buttons[Number(key) - 1]);
  else if (key === 'm') toggle(buttons[buttons.length - 1]);
  else if (key === 'f') toggle(fill);
  else if (key === 'd') lookAtDisagreement();
  else return;
  event.preventDefault();
  event.stopPropagation();
}, true);

open().catch((error) => {
  document.getElementById('loading').textContent = `The images could not be shown: ${error.message}. The figures beside are complete.`;
});
