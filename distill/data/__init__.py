"""From manifests, folders, tables and shards of audio to batches; imports nothing by itself."""
