// OHIF at /ohif/, over this server's own DICOMweb gateway; the browser's cookie says who is looking.
window.config = {
  name: 'overread',
  routerBasename: '/ohif',
  // The panel in which a reader works on his case, beside the series list; the tools to draw with are on the right.
  extensions: ['/ohif/overread/extension.js'],
  modes: [],
  customizationService: {
    mode: {
      segmentation: {
        leftPanels: {
          $set: ['overread.panelModule.work', '@ohif/extension-default.panelModule.seriesList'],
        },
      },
    },
  },
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showCPUFallbackMessage: false,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
  defaultDataSourceName: 'overread',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'overread',
      configuration: {
        friendlyName: 'Overread archive',
        name: 'overread',
        qidoRoot: '/dicomweb',
        wadoRoot: '/dicomweb',
        wadoUriRoot: '/dicomweb',
        qidoSupportsIncludeField: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
