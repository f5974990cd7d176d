"""A user's application in the service, and the service in a user's application."""
