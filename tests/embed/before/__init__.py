"""The three programs of the tutorial's chapter on WebSockets as they are without Starling, in this project's words."""
