// Outlines from the server's pattern files, traced in any slice of the viewer's three planes.

// A file whose voxels number patterns of answers, and the way from the viewer's axes (RAS) to its voxels.
export class Outlines {
  constructor(nifti, item) {
    const { told } = nifti;
    this.labels = told.labels;
    this.patterns = told.patterns;
    this.boxes = told.boxes;
    this.points = told.points;
    this.codes = nifti.voxels;
    this.image = told.image_XYZ;
    this.axes = item.permRAS.slice(0, 3).map((axis) => ({ native: Math.abs(axis) - 1, flipped: axis < 0 }));
    const strides = [1, nifti.dims[0], nifti.dims[0] * nifti.dims[1]];
    this.size = this.axes.map(({ native }) => nifti.dims[native]);
    this.low = this.axes.map(({ native, flipped }) => (flipped ? this.image[native] - told.start_XYZ[native] - nifti.dims[native] : told.start_XYZ[native]));
    this.step = this.axes.map(({ native, flipped }) => (flipped ? -1 : 1) * strides[native]);
    this.start = this.axes.reduce((sum, { native, flipped }) => sum + (flipped ? (nifti.dims[native] - 1) * strides[native] : 0), 0);
    this.kept = new Map();
  }

  // Loops around the voxels whose pattern fulfils `test`, in the slice at `index` along an axis: [{ points, area }], points
  // as [across, up, …] in voxel corners of the image. `name` says which test it is, so that loops are traced once.
  loops(plane, index, name, test) {
    const key = `${plane.through} ${index} ${name}`;
    if (!this.kept.has(key)) {
      if (this.kept.size > 4000) this.kept.clear();
      this.kept.set(key, this.traced(plane, index, test));
    }
    return this.kept.get(key);
  }

  traced({ across, up, through }, index, test) {
    const place = index - this.low[through];
    if (place < 0 || place >= this.size[through] || !this.codes.length) return [];
    const wanted = Uint8Array.from(this.patterns, (pattern, code) => (test(pattern, code) ? 1 : 0));
    if (!wanted.includes(1)) return [];
    const [width, height] = [this.size[across], this.size[up]];
    const mask = new Uint8Array(width * height);
    let any = 0;
    for (let j = 0; j < height; j += 1) {
      let from = this.start + place * this.step[through] + j * this.step[up];
      for (let i = 0; i < width; i += 1, from += this.step[across]) any |= mask[j * width + i] = wanted[this.codes[from]];
    }
    return any ? trace(mask, width, height, this.low[across], this.low[up]) : [];
  }

  // How many voxels of each slice along the viewer's third axis fulfil the test, and the middle of the fullest, in voxels.
  fullest(test) {
    const wanted = Uint8Array.from(this.patterns, (pattern, code) => (test(pattern, code) ? 1 : 0));
    let [most, best] = [0, -1];
    const [[width, height, depth], [dx, dy, dz]] = [this.size, this.step];
    for (let k = 0; k < depth; k += 1) {
      let count = 0;
      for (let j = 0; j < height; j += 1) {
        let from = this.start + k * dz + j * dy;
        for (let i = 0; i < width; i += 1, from += dx) count += wanted[this.codes[from]];
      }
      if (count > most) [most, best] = [count, k];
    }
    return best < 0 ? null : this.middle(wanted, best);
  }

  // The voxel of the test nearest to the middle of all such voxels of a slice.
  middle(wanted, k) {
    const [[width, height], [dx, dy, dz]] = [this.size, this.step];
    const found = [];
    for (let j = 0; j < height; j += 1) {
      for (let i = 0; i < width; i += 1) if (wanted[this.codes[this.start + i * dx + j * dy + k * dz]]) found.push([i, j]);
    }
    const mean = [0, 1].map((axis) => found.reduce((sum, place) => sum + place[axis], 0) / found.length);
    const distance = (place) => Math.abs(place[0] - mean[0]) + Math.abs(place[1] - mean[1]);
    const [i, j] = found.reduce((near, place) => (distance(place) < distance(near) ? place : near));
    return [i + this.low[0], j + this.low[1], k + this.low[2]];
  }

  // A place in voxels of the image, in the viewer's axes.
  placed(native) {
    return this.axes.map((axis) => (axis.flipped ? this.image[axis.native] - 1 - native[axis.native] : native[axis.native]));
  }
}

const MOVES = [[1, 0], [0, 1], [-1, 0], [0, -1]];

// Closed loops along the edges of a mask, what is inside on the left: each turn of an edge is a point.
function trace(mask, width, height, left, bottom) {
  const corners = width + 1;
  const out = new Uint8Array(corners * (height + 1));
  const at = (i, j) => (i < 0 || j < 0 || i >= width || j >= height ? 0 : mask[j * width + i]);
  for (let j = 0; j < height; j += 1) {
    for (let i = 0; i < width; i += 1) {
      if (!mask[j * width + i]) continue;
      if (!at(i, j - 1)) out[j * corners + i] |= 1;
      if (!at(i + 1, j)) out[j * corners + i + 1] |= 2;
      if (!at(i, j + 1)) out[(j + 1) * corners + i + 1] |= 4;
      if (!at(i - 1, j)) out[(j + 1) * corners + i] |= 8;
    }
  }
  const loops = [];
  for (let corner = 0; corner < out.length; corner += 1) {
    while (out[corner]) loops.push(follow(out, corner, corners, left, bottom));
  }
  return loops;
}

function follow(out, first, corners, left, bottom) {
  const points = [];
  let [corner, move, area] = [first, Math.log2(out[first] & -out[first]), 0];
  let last = -1;
  do {
    const [x, y] = [corner % corners, Math.floor(corner / corners)];
    if (move !== last) points.push(x + left, y + bottom);
    out[corner] &= ~(1 << move);
    area += x * MOVES[move][1];
    corner += MOVES[move][0] + MOVES[move][1] * corners;
    last = move;
    // Of two ways on, the sharper turn to the left: voxels that meet at a corner alone stay apart.
    const next = [1, 0, 3].map((turn) => (move + turn) % 4).find((candidate) => out[corner] & (1 << candidate));
    if (next === undefined) break;
    move = next;
  } while (corner !== first);
  return { points, area: Math.abs(area) };
}
