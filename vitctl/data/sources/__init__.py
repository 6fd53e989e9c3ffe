"""Where pictures come from: one contract, and a reader for each form in which people keep them."""

from vitctl.data.sources.contract import Declared, Found, Refused, Sighting, Source
from vitctl.data.sources.detect import open_source

__all__ = ["Declared", "Found", "Refused", "Sighting", "Source", "open_source"]
