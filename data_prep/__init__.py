"""From corpora on disk to lhotse manifests."""
