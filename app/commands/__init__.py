"""The commands of `starling` that reach a running service, or compute what one needs."""
