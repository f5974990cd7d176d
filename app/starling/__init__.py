"""Starling: a real-time WebSocket service for Python teams."""

__version__ = "0.1.0"
