"""The Redis broker: commands, Pub/Sub links, scripts, Sentinel and Cluster."""
