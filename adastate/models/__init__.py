"""One folder per backbone; beside them what backbones share."""
