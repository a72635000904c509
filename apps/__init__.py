"""The running services of a site, one folder each; what they share lies directly in this package."""
