// One volume in NiiVue without NiiVue's own passes over its voxels, which take half a minute for 512×512×300 voxels where
// WebGL is software. NiiVue gets the grid alone and lays out, draws and navigates; the window is applied here, through a
// table, and what comes of it goes into the texture that NiiVue's slices are cut from: a fifth of a second.

const TYPES = {
  2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 64: Float64Array, 256: Int8Array, 512: Uint16Array, 768: Uint32Array,
};
const HEADER_BYTES = 352;
const SAMPLES = 200_000;
// What writes voxels of a volume to the graphics memory; NiiVue does it to none.
const PASSES = ['drawArrays', 'texSubImage3D'];

export async function fetchNifti(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || `the server answered ${answer.status}`);
  return readNifti(await answer.arrayBuffer());
}

// A NIfTI-1 file (little-endian, as the server writes it): its voxels, axes, scaling and the text of its extension.
export function readNifti(buffer) {
  const view = new DataView(buffer);
  const dims = [1, 2, 3].map((axis) => view.getInt16(40 + 2 * axis, true));
  const begin = view.getFloat32(108, true);
  const Type = TYPES[view.getInt16(70, true)];
  if (!Type) throw new Error('its voxels are of a kind that this page does not show');
  const count = dims[0] * dims[1] * dims[2];
  const aligned = begin % Type.BYTES_PER_ELEMENT === 0;
  const voxels = aligned ? new Type(buffer, begin, count) : new Type(buffer.slice(begin, begin + count * Type.BYTES_PER_ELEMENT));
  const extension = begin > HEADER_BYTES && view.getUint8(348) ? new Uint8Array(buffer, 360, view.getInt32(352, true) - 8) : null;
  return {
    buffer, dims, voxels,
    slope: view.getFloat32(112, true) || 1,
    intercept: view.getFloat32(116, true) || 0,
    told: extension ? JSON.parse(new TextDecoder().decode(extension)) : null,
  };
}

export class Volume {
  constructor(nifti) {
    Object.assign(this, nifti);
    this.bytes = new Uint8Array(this.voxels.length);
  }

  // Show this volume in the viewer, between these values; `viewer.windowed(low, high)` changes them.
  async attach(viewer, [low, high]) {
    const header = this.buffer.slice(0, HEADER_BYTES + 8);
    const view = new DataView(header);
    [1, 2, 3].forEach((axis) => view.setInt16(40 + 2 * axis, 1, true));
    view.setFloat32(108, HEADER_BYTES, true);
    view.setUint8(348, 0);
    const item = await niivue.NVImage.new(header, 'image.nii', 'gray', 1, null, low, high);
    this.dims.forEach((size, index) => { item.hdr.dims[index + 1] = size; });
    item.dims = [...item.hdr.dims];
    item.nVox3D = this.voxels.length;
    item.calculateRAS();
    this.item = item;
    const refresh = viewer.refreshLayers.bind(viewer);
    viewer.refreshLayers = (layer, index) => {
      viewer.volumeTexture = null;
      withoutPasses(viewer.gl, () => refresh(layer, index));
      this.upload(viewer);
    };
    viewer.addVolume(item);
  }

  // Other voxels on the same grid, such as another channel's.
  show({ voxels, slope, intercept }) {
    Object.assign(this, { voxels, slope, intercept, shown: '' });
  }

  window(viewer, [low, high]) {
    this.item.cal_min = low;
    this.item.cal_max = high;
    this.upload(viewer);
    viewer.drawScene();
  }

  upload(viewer) {
    const { gl } = viewer;
    const { cal_min: low, cal_max: high } = this.item;
    gl.activeTexture(gl.TEXTURE0);
    if (!this.texture) this.texture = newTexture(gl, this.item.dimsRAS.slice(1));
    gl.bindTexture(gl.TEXTURE_3D, this.texture);
    if (this.shown !== `${low} ${high}`) {
      this.fill(low, high);
      gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
      gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, ...this.item.dimsRAS.slice(1), gl.LUMINANCE, gl.UNSIGNED_BYTE, this.bytes);
      this.shown = `${low} ${high}`;
    }
    viewer.volumeTexture = this.texture;
  }

  // Grey values in the viewer's own order of axes.
  fill(low, high) {
    const raw = [low, high].map((value) => (value - this.intercept) / this.slope);
    const scale = 255 / (raw[1] - raw[0] || 1);
    const grey = (value) => Math.max(0, Math.min(255, Math.round((value - raw[0]) * scale)));
    const { source, table } = this.tabled(grey);
    const [, width, height, depth] = this.item.dimsRAS;
    const [dx, dy, dz] = this.item.img2RASstep;
    const start = this.item.img2RASstart.reduce((sum, offset) => sum + offset, 0);
    const { bytes } = this;
    let to = 0;
    for (let z = 0; z < depth; z += 1) {
      for (let y = 0; y < height; y += 1) {
        let from = start + z * dz + y * dy;
        if (table) for (let x = 0; x < width; x += 1, from += dx) { bytes[to] = table[source[from]]; to += 1; }
        else for (let x = 0; x < width; x += 1, from += dx) { bytes[to] = grey(source[from]); to += 1; }
      }
    }
  }

  // Voxels as unsigned numbers and a table from these to grey, where they have at most 16 bits.
  tabled(grey) {
    const { voxels } = this;
    const Unsigned = { 1: Uint8Array, 2: Uint16Array }[voxels.BYTES_PER_ELEMENT];
    if (!Unsigned) return { source: voxels, table: null };
    const values = new voxels.constructor(Uint16Array.from({ length: 2 ** (8 * voxels.BYTES_PER_ELEMENT) }, (_, index) => index));
    return { source: new Unsigned(voxels.buffer, voxels.byteOffset, voxels.length), table: Uint8Array.from(values, grey) };
  }

  // The window between these shares of the values above the lowest, from a sample of the voxels.
  percentiles(from, to) {
    const step = Math.max(1, Math.floor(this.voxels.length / SAMPLES)) | 1;
    const sample = [];
    for (let index = 0; index < this.voxels.length; index += step) sample.push(this.voxels[index]);
    sample.sort((a, b) => a - b);
    const above = sample.filter((value) => value > sample[0]);
    const used = above.length ? above : sample;
    const [low, high] = [from, to].map((share) => used[Math.round(share * (used.length - 1))]);
    const shown = low < high ? [low, high] : [sample[0], sample[0] < high ? high : high + 1];
    return shown.map((value) => value * this.slope + this.intercept);
  }
}

function withoutPasses(gl, work) {
  const store = gl.texStorage3D.bind(gl);
  PASSES.forEach((name) => { gl[name] = () => {}; });
  gl.texStorage3D = (target, levels, format, width, height, depth) => store(target, levels, format, 1, 1, depth);
  try { work(); } finally { [...PASSES, 'texStorage3D'].forEach((name) => { delete gl[name]; }); }
}

function newTexture(gl, size) {
  const largest = gl.getParameter(gl.MAX_3D_TEXTURE_SIZE);
  if (Math.max(...size) > largest) throw new Error(`it is ${size.join(' × ')} voxels, and this browser's graphics show ${largest} along an axis`);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_3D, texture);
  ['MIN_FILTER', 'MAG_FILTER'].forEach((name) => gl.texParameteri(gl.TEXTURE_3D, gl[`TEXTURE_${name}`], gl.LINEAR));
  ['S', 'T', 'R'].forEach((axis) => gl.texParameteri(gl.TEXTURE_3D, gl[`TEXTURE_WRAP_${axis}`], gl.CLAMP_TO_EDGE));
  gl.texImage3D(gl.TEXTURE_3D, 0, gl.LUMINANCE, ...size, 0, gl.LUMINANCE, gl.UNSIGNED_BYTE, null);
  return texture;
}
