"""The documentation as a site, and the diagrams of its pages."""
