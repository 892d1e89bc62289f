"""Images and photographs as files: decoded, read, written, downloaded and unpacked."""
