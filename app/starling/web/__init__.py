"""The web layer: FastAPI routes, one file each, that admit clients and hand them to the engine."""
