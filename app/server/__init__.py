"""The processes: gunicorn, its uvicorn workers, their sockets and how they stop."""
