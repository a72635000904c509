// The outlines of a case in OHIF: one labelmap with the protocol's structures, read and written as a whole volume.
import { sameGrid, slicesOf } from './grid.js';

export class Outline {
  constructor(services, told, displaySet) {
    this.services = services;
    this.told = told;
    this.displaySet = displaySet;
    this.id = `overread-${told.case}`;
    const planeOf = imageId => window.cornerstone.metaData.get('imagePlaneModule', imageId);
    this.slices = slicesOf(told.grid, displaySet.imageIds, planeOf);
  }

  get exists() {
    return Boolean(this.services.segmentationService.getSegmentation(this.id));
  }

  // Make it, empty, with a segment for each structure under the structure's own value.
  async create() {
    const segments = Object.fromEntries(
      this.told.structures.map(({ value, title }, i) => [
        value,
        { segmentIndex: value, label: title, locked: false, active: i === 0, cachedStats: {} },
      ])
    );
    const { segmentationService } = this.services;
    const options = { segmentationId: this.id, label: this.told.title, segments };
    await segmentationService.createLabelmapForDisplaySet(this.displaySet, options);
    await this.show();
  }

  // Draw it in every viewport that shows the series and does not draw it yet.
  async show() {
    const { segmentationService, viewportGridService } = this.services;
    for (const [viewportId, { displaySetInstanceUIDs }] of viewportGridService.getState().viewports) {
      const shown = segmentationService.getSegmentationRepresentations(viewportId, { segmentationId: this.id });
      if (displaySetInstanceUIDs?.includes(this.displaySet.displaySetInstanceUID) && !shown.length) {
        await segmentationService.addSegmentationRepresentation(viewportId, { segmentationId: this.id });
        this._paint(viewportId);
      }
    }
  }

  // Values in the protocol's numbers, x fastest; raises where they lie on another grid than the case.
  write(volume) {
    if (!sameGrid(volume, this.told.grid)) {
      throw new Error('What came from the server does not lie on the grid of this case. Nothing was drawn.');
    }
    const area = this.told.grid.size_XYZ[0] * this.told.grid.size_XYZ[1];
    this._images().forEach((image, z) => {
      const pixels = image.voxelManager.getScalarData();
      pixels.set(volume.values.subarray(z * area, (z + 1) * area));
      image.voxelManager.setScalarData(pixels);
    });
    window.cornerstoneTools.segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(this.id);
  }

  read() {
    const { size_XYZ, affine_LPS } = this.told.grid;
    const area = size_XYZ[0] * size_XYZ[1];
    const values = new Uint8Array(area * size_XYZ[2]);
    this._images().forEach((image, z) => values.set(image.voxelManager.getScalarData(), z * area));
    this._refuseForeign(values);
    return { size_XYZ, affine_LPS, values };
  }

  // Go to the slice with most of it, so that it is seen at once.
  async turnTo() {
    const { values } = this.read();
    const area = this.told.grid.size_XYZ[0] * this.told.grid.size_XYZ[1];
    const counts = this.slices.map((_, z) => values.subarray(z * area, (z + 1) * area).reduce((n, v) => n + (v > 0), 0));
    const most = counts.indexOf(Math.max(...counts));
    const { cornerstoneViewportService, viewportGridService } = this.services;
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
    if (counts[most] && viewport?.setImageIdIndex) {
      await viewport.setImageIdIndex(viewport.getImageIds().indexOf(this.slices[most]));
    }
  }

  // The labelmap's images, in the order of the case's slices.
  _images() {
    const segmentation = this.services.segmentationService.getSegmentation(this.id);
    if (!segmentation) {
      throw new Error(`The segmentation “${this.told.title}” was removed; press “Start again”.`);
    }
    const images = segmentation.representationData.Labelmap.imageIds.map(id => window.cornerstone.cache.getImage(id));
    const byReference = new Map(images.map(image => [image.referencedImageId, image]));
    return this.slices.map(imageId => byReference.get(imageId));
  }

  _refuseForeign(values) {
    const known = new Set([0, ...this.told.structures.map(({ value }) => value)]);
    const foreign = [...new Set(values)].filter(value => !known.has(value));
    if (foreign.length) {
      const { segments } = this.services.segmentationService.getSegmentation(this.id);
      const names = foreign.map(value => segments[value]?.label ?? value).join(', ');
      const expected = this.told.structures.map(({ title }) => title).join(', ');
      throw new Error(`You drew segments that the protocol does not know: ${names}; it has ${expected}. Nothing was sent.`);
    }
  }

  _paint(viewportId) {
    for (const { value, color } of this.told.structures) {
      const rgb = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
      this.services.segmentationService.setSegmentColor(viewportId, this.id, value, [...rgb, 255]);
    }
  }
}
