"""The HTTP surface: one noun a file, mounted by `install`."""

from service.http.assembly import install

__all__ = ["install"]
