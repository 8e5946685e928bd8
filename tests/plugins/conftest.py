"""The authority of the export's tests."""

from tests.export.conftest import authority, make_authority

__all__ = ["authority", "make_authority"]
