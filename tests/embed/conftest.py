"""The fixture of the package's own pytest plugin, also where the package is not installed anew."""

from starling.pytest_plugin import starling

__all__ = ["starling"]
