"""Where devices' files go: a blob store, and the calls of Azure Storage on it."""
