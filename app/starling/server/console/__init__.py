"""The operators' console on the internal port."""
