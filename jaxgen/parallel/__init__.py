"""Meshes, layouts, random streams and compile records: what every sharded program starts from."""
