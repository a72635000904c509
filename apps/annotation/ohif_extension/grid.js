// A case's grid against the slices of its series: where each slice lies in the volume, and each point among the voxels.

const TOLERANCE_VOXELS = 0.1;

// Voxel index (x, y, z), with fractions, of a point in LPS millimetres.
export function indexOf(grid, point_mm) {
  const a = grid.affine_LPS;
  const moved = [0, 1, 2].map(i => point_mm[i] - a[i][3]);
  const axes = [0, 1, 2].map(j => [a[0][j], a[1][j], a[2][j]]);
  // The axes of an image stand at right angles.
  return axes.map(axis => dot(axis, moved) / dot(axis, axis));
}

export function voxelOf(grid, point_mm) {
  const voxel = indexOf(grid, point_mm).map(Math.round);
  return voxel.every((n, i) => n >= 0 && n < grid.size_XYZ[i]) ? voxel : null;
}

// The image of each slice of the volume, in the order of its z axis; `planeOf(imageId)` tells where an image lies.
// A series whose images are not the volume's slices, one for one, is an error: nothing is drawn on a guess.
export function slicesOf(grid, imageIds, planeOf) {
  const slices = new Array(grid.size_XYZ[2]).fill(null);
  for (const imageId of imageIds) {
    const z = sliceOf(grid, planeOf(imageId));
    if (slices[z]) {
      throw new Error('Two images of the series lie in one place. Nothing is drawn here; use 3D Slicer.');
    }
    slices[z] = imageId;
  }
  if (slices.includes(null)) {
    throw new Error(
      `The series shows ${imageIds.length} images and the case has ${slices.length} slices.` +
        ' Nothing is drawn here; use 3D Slicer.'
    );
  }
  return slices;
}

function sliceOf(grid, plane) {
  const corner = Array.from(plane.imagePositionPatient);
  const last = corner.map(
    (at, i) =>
      at +
      plane.rowCosines[i] * plane.columnPixelSpacing * (plane.columns - 1) +
      plane.columnCosines[i] * plane.rowPixelSpacing * (plane.rows - 1)
  );
  const [first, end] = [indexOf(grid, corner), indexOf(grid, last)];
  const z = Math.round(first[2]);
  const expected = [0, 0, z, grid.size_XYZ[0] - 1, grid.size_XYZ[1] - 1, z];
  const off = Math.max(...[...first, ...end].map((n, i) => Math.abs(n - expected[i])));
  if (!(off <= TOLERANCE_VOXELS) || z < 0 || z >= grid.size_XYZ[2]) {
    throw new Error(
      `An image of the series lies ${off.toFixed(2)} voxels beside the case's slices.` +
        ' Nothing is drawn here; use 3D Slicer.'
    );
  }
  return z;
}

export function sameGrid(a, b) {
  const apart = a.affine_LPS.flatMap((row, i) => row.map((n, j) => Math.abs(n - b.affine_LPS[i][j])));
  return a.size_XYZ.every((n, i) => n === b.size_XYZ[i]) && Math.max(...apart) < 0.05;
}

const dot = (a, b) => a.reduce((sum, n, i) => sum + n * b[i], 0);
