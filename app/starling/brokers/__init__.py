"""Brokers, the links between processes: one adapter for each kind of store, behind the contracts of the engine."""
