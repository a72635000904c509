// The reader's points and boxes: clicks and rectangles in the image, kept as voxel indices (i, j, k) by what they show.
import { indexOf, voxelOf } from './grid.js';

const POINT = { tool: 'OverreadPoint', of: 'Probe' };
const BOX = { tool: 'OverreadBox', of: 'RectangleROI' };
const TOOLS = [POINT, BOX];
const BACKGROUND_COLOR = '#ffffff';

export class Points {
  constructor(services, told, onMark) {
    this.services = services;
    this.told = told;
    this.name = null;
    this.onMark = onMark;
    this.marks = []; // { uid, name, voxel } of points, { uid, name, corners } of rectangles
    this._completed = event => this._keep(event.detail.annotation);
    window.cornerstone.eventTarget.addEventListener(this._event, this._completed);
  }

  get _event() {
    return window.cornerstoneTools.Enums.Events.ANNOTATION_COMPLETED;
  }

  // From now on a click says that it is in this structure, or a rectangle is drawn round it; without a name the mouse
  // gets its former tool back.
  pick(name, boxed = false) {
    this.name = name;
    const { toolGroupService } = this.services;
    for (const group of toolGroupService.getToolGroupIds().map(id => toolGroupService.getToolGroup(id))) {
      // Groups of viewports without a mouse tool, as of the 3D view, take no points.
      if (group?.getActivePrimaryMouseButtonTool() && group.hasTool('WindowLevel')) {
        this._give(group, name ? (boxed ? BOX : POINT) : null);
      }
    }
  }

  // Points by name, as the models are sent them.
  get byName() {
    const found = {};
    for (const { name, voxel } of this.marks.filter(({ voxel }) => voxel)) {
      (found[name] ??= []).push(voxel);
    }
    return found;
  }

  // The box last drawn: { label, roi: [i0, i1, j0, j1, k0, k1] } round all rectangles of its structure, null without one.
  get box() {
    const label = this.marks.findLast(({ corners }) => corners)?.name;
    const corners = this.marks.filter(({ name, corners }) => corners && name === label).flatMap(({ corners }) => corners);
    const ends = i => [Math.min(...corners.map(c => c[i])), Math.max(...corners.map(c => c[i]))];
    return label ? { label, roi: [...ends(0), ...ends(1), ...ends(2)] } : null;
  }

  clear() {
    const { annotation } = window.cornerstoneTools;
    this.marks.forEach(({ uid }) => annotation.state.removeAnnotation(uid));
    this.marks = [];
    this.services.cornerstoneViewportService.getRenderingEngine()?.render();
  }

  end() {
    this.clear();
    window.cornerstone.eventTarget.removeEventListener(this._event, this._completed);
  }

  // Put a tool of ours into the hand, or with null what was there before.
  _give(group, ours) {
    const { Primary } = window.cornerstoneTools.Enums.MouseBindings;
    const active = group.getActivePrimaryMouseButtonTool();
    const isOurs = TOOLS.some(({ tool }) => tool === active);
    if (!isOurs) {
      this.before = active;
    }
    const wanted = ours?.tool ?? (isOurs ? this.before : active);
    if (wanted === active) {
      return;
    }
    if (ours && !group.hasTool(ours.tool)) {
      group.addToolInstance(ours.tool, ours.of, { getTextLines: () => [] });
    }
    group.setToolPassive(active);
    group.setToolActive(wanted, { bindings: [{ mouseButton: Primary }] });
  }

  _keep({ annotationUID: uid, metadata, data }) {
    if (!this.name || !TOOLS.some(({ tool }) => tool === metadata.toolName)) {
      return;
    }
    const { grid, structures } = this.told;
    const mark = { uid, name: this.name };
    if (metadata.toolName === BOX.tool) {
      mark.corners = data.handles.points.map(point => indexOf(grid, point).map(Math.round));
    } else {
      mark.voxel = voxelOf(grid, data.handles.points[0]);
    }
    if (!mark.corners && !mark.voxel) {
      window.cornerstoneTools.annotation.state.removeAnnotation(uid);
      return;
    }
    const color = structures.find(({ name }) => name === this.name)?.color ?? BACKGROUND_COLOR;
    window.cornerstoneTools.annotation.config.style.setAnnotationStyles(uid, { color });
    this.marks.push(mark);
    this.onMark();
  }
}
