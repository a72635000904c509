// NRRD volumes of labels: bytes in, voxel values on their grid out, and back. One value a voxel, x fastest.

const TYPES = {
  'unsigned char': Uint8Array, uchar: Uint8Array, uint8: Uint8Array, uint8_t: Uint8Array,
  'signed char': Int8Array, int8: Int8Array, int8_t: Int8Array,
  short: Int16Array, int16: Int16Array, int16_t: Int16Array,
  'unsigned short': Uint16Array, ushort: Uint16Array, uint16: Uint16Array, uint16_t: Uint16Array,
  int: Int32Array, int32: Int32Array, int32_t: Int32Array,
  'unsigned int': Uint32Array, uint: Uint32Array, uint32: Uint32Array, uint32_t: Uint32Array,
};

// A volume { size_XYZ, affine_LPS, values }: the affine is 4×4, from voxel index to millimetres.
export async function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  const end = endOfHeader(bytes);
  const fields = fieldsOf(new TextDecoder().decode(bytes.subarray(0, end)));
  const size_XYZ = numbers(fields.sizes);
  if (size_XYZ.length !== 3) {
    throw new Error('The label holds several layers; structures that overlap are drawn in 3D Slicer only.');
  }
  const kind = TYPES[fields.type];
  if (!kind || !['gzip', 'gz', 'raw'].includes(fields.encoding)) {
    throw new Error(`The label is a NRRD file of type ${fields.type}, encoding ${fields.encoding}; it cannot be read.`);
  }
  const content = fields.encoding === 'raw' ? bytes.slice(end) : await piped(bytes.slice(end), DecompressionStream);
  const values = Uint8Array.from(new kind(content.buffer, 0, size_XYZ[0] * size_XYZ[1] * size_XYZ[2]));
  return { size_XYZ, affine_LPS: affineOf(fields), values };
}

export async function encode({ size_XYZ, affine_LPS, values }) {
  const column = j => `(${[0, 1, 2].map(i => affine_LPS[i][j]).join(',')})`;
  const header = [
    'NRRD0004', 'type: unsigned char', 'dimension: 3', 'space: left-posterior-superior',
    `sizes: ${size_XYZ.join(' ')}`, `space directions: ${column(0)} ${column(1)} ${column(2)}`,
    'kinds: domain domain domain', 'encoding: gzip', `space origin: ${column(3)}`, '', '',
  ];
  return new Blob([header.join('\n'), await piped(values, CompressionStream)]);
}

function endOfHeader(bytes) {
  for (let at = 1; at < bytes.length; at += 1) {
    if (bytes[at] === 10 && (bytes[at - 1] === 10 || (bytes[at - 1] === 13 && bytes[at - 2] === 10))) {
      return at + 1;
    }
  }
  throw new Error('The label is no NRRD file: its header has no end.');
}

function fieldsOf(header) {
  const lines = header.split(/\r?\n/).filter(line => line.includes(': ') && !line.startsWith('#'));
  return Object.fromEntries(lines.map(line => [line.split(': ')[0], line.slice(line.indexOf(': ') + 2).trim()]));
}

const numbers = text => text.trim().split(/[\s,()]+/).filter(Boolean).map(Number);

function affineOf(fields) {
  const directions = numbers(fields['space directions'] ?? '');
  const origin = numbers(fields['space origin'] ?? '');
  if (fields.space !== 'left-posterior-superior' || directions.length !== 9 || origin.length !== 3) {
    throw new Error(`The label lies in ${fields.space ?? 'no space'}; left-posterior-superior was expected.`);
  }
  const row = i => [directions[i], directions[3 + i], directions[6 + i], origin[i]];
  return [row(0), row(1), row(2), [0, 0, 0, 1]];
}

async function piped(bytes, Stream) {
  const stream = new Blob([bytes]).stream().pipeThrough(new Stream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
