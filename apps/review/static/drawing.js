// Lines, hatching and letters of outlines on a canvas over one of NiiVue's views.

export const PLANES = [{ across: 0, up: 1, through: 2 }, { across: 0, up: 2, through: 1 }, { across: 1, up: 2, through: 0 }];
// Colour and dash of a label, as in review.css: never colour alone, and a letter stands at the line.
export const STYLES = {
  A: { color: '#ffb000', dash: [] },
  B: { color: '#4cc9f0', dash: [9, 5] },
  C: { color: '#e07be0', dash: [2, 4] },
  D: { color: '#a3d95d', dash: [12, 4, 2, 4] },
  E: { color: '#ff8a80', dash: [16, 8] },
  edit: { color: '#7ef0d0', dash: [5, 2] },
  consensus: { color: '#f4f4f4', dash: [4, 4] },
};
const LINE_PX = 2;
const TAG_PX = 13;

// Where a voxel's corner lies on the canvas. NiiVue's views are straight: millimetres map linearly to pixels.
export function gridOf(tile, plane, item) {
  const { extentsMinOrtho: low, extentsMaxOrtho: high, dimsRAS } = item;
  const [left, top, width, height] = tile.leftTopWidthHeight;
  const along = (axis, index) => {
    const voxel = ((high[axis] - low[axis]) / dimsRAS[axis + 1]) / tile.fovMM[index];
    return { start: (low[axis] - tile.leftTopMM[index]) / tile.fovMM[index], voxel };
  };
  const [x, y] = [along(plane.across, 0), along(plane.up, 1)];
  return {
    x: (voxel) => left + (x.start + x.voxel * voxel) * width,
    y: (voxel) => top + (1 - y.start - y.voxel * voxel) * height,
    index: Math.min(dimsRAS[plane.through + 1] - 1, Math.floor(tile.sliceFrac * dimsRAS[plane.through + 1])),
  };
}

export function pathOf(loops, grid) {
  const path = new Path2D();
  loops.forEach(({ points }) => {
    path.moveTo(grid.x(points[0]), grid.y(points[1]));
    for (let index = 2; index < points.length; index += 2) path.lineTo(grid.x(points[index]), grid.y(points[index + 1]));
    path.closePath();
  });
  return path;
}

// `opacity` from 0 to 1; `filled` or the line alone.
export function stroke(context, path, style, { opacity, filled }) {
  if (filled) {
    context.globalAlpha = 0.35 * opacity;
    context.fillStyle = style.color;
    context.fill(path, 'evenodd');
  }
  const width = LINE_PX * (window.devicePixelRatio || 1);
  context.setLineDash([]);
  context.globalAlpha = 0.45 * opacity;
  context.strokeStyle = '#000';
  context.lineWidth = 2 * width;
  context.stroke(path);
  context.globalAlpha = opacity;
  context.setLineDash(style.dash.map((px) => px * (window.devicePixelRatio || 1)));
  context.strokeStyle = style.color;
  context.lineWidth = width;
  context.stroke(path);
}

export function hatch(context, path, opacity) {
  const cell = new OffscreenCanvas(8, 8);
  const pen = cell.getContext('2d');
  pen.strokeStyle = '#ff5d5d';
  pen.lineWidth = 1.6;
  [-8, 0, 8].forEach((x) => { pen.moveTo(x - 1, 9); pen.lineTo(x + 9, -1); });
  pen.stroke();
  context.globalAlpha = opacity;
  context.fillStyle = context.createPattern(cell, 'repeat');
  context.fill(path, 'evenodd');
}

// The point of a loop that lies furthest in the direction of this one of so many labels, so that letters of like outlines
// stay apart.
export function tagPlace({ points }, grid, at, labels) {
  const angle = (2 * Math.PI * at) / labels + 0.8;
  const [dx, dy] = [Math.cos(angle), -Math.sin(angle)];
  let best = null;
  for (let index = 0; index < points.length; index += 2) {
    const [x, y] = [grid.x(points[index]), grid.y(points[index + 1])];
    if (!best || x * dx + y * dy > best.reach) best = { x, y, reach: x * dx + y * dy };
  }
  return { x: best.x + 9 * dx, y: best.y + 9 * dy };
}

// A letter that would be cut by the view's edge stands just inside it.
export function letter(context, { name, style, x, y }, [left, top, width, height]) {
  const near = (value, low, high) => (value > low - TAG_PX && value < high + TAG_PX ? Math.min(Math.max(value, low + TAG_PX / 2), high - TAG_PX / 2) : value);
  context.setLineDash([]);
  context.globalAlpha = 1;
  context.font = `600 ${TAG_PX * (window.devicePixelRatio || 1)}px system-ui, sans-serif`;
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.lineWidth = 3;
  context.strokeStyle = '#000';
  context.fillStyle = style.color;
  const text = name.length === 1 ? name : name[0];
  const place = [near(x, left, left + width), near(y, top, top + height)];
  context.strokeText(text, ...place);
  context.fillText(text, ...place);
}
