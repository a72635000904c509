// Overread in OHIF: a panel beside the image with the reader's case, models that draw for him, and Submit.
//
// The packaged viewer imports this file as it is (app-config.js names its address) and gives it its services.
import { Work } from './work.js';
import { Panel } from './panel.js';
import { token } from './server.js';

const ID = 'overread';

let work = null;

export default {
  id: ID,

  preRegistration({ servicesManager, extensionManager }) {
    work = new Work({ services: servicesManager.services });
    work.panel = new Panel(work);
    letStoringShowWhoseItIs(extensionManager);
  },

  getPanelModule({ extensionManager }) {
    const component = () => asElement(extensionManager, 'div', { className: 'h-full', ref: showPanel });
    return [{ name: 'work', iconName: 'tab-patient-info', iconLabel: 'Overread', label: 'Overread', component }];
  },

  onModeEnter() {
    work.begin();
  },

  onModeExit() {
    work.end();
  },
};

function showPanel(node) {
  node?.replaceChildren(work.panel.root);
}

// The package hands React to nobody, so its mark on elements is taken from an element of another panel.
function asElement(extensionManager, type, { ref, ...props }) {
  const panel = extensionManager.getModuleEntry('@ohif/extension-default.panelModule.seriesList');
  const { $$typeof } = panel.component({});
  return { $$typeof, type, key: null, ref, props, _owner: null };
}

// OHIF's own Export sends segmentations by STOW-RS with no other header than Authorization; a browser that is signed in
// by its cookie must show that a page of ours sends.
function letStoringShowWhoseItIs(extensionManager) {
  const storing = source => {
    const { dicom } = source.store;
    source.store.dicom = (dataset, request, dictionary) => dicom(dataset, marked(request), dictionary);
  };
  const [source] = extensionManager.getDataSources?.('overread') ?? [];
  if (source) {
    storing(source);
  }
}

function marked(request = new XMLHttpRequest()) {
  const open = request.open.bind(request);
  request.open = (...how) => {
    open(...how);
    request.setRequestHeader('X-CSRF-Token', token);
  };
  return request;
}
