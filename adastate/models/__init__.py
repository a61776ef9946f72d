"""One folder per backbone, and the modules that backbones share."""
