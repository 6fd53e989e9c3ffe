"""Where pictures come from: one contract, and a reader for each form in which people keep them."""

from vitctl.data.sources.contract import Declared, Found, Refused, Sighting, Source
from vitctl.data.sources.detect import open_source
from vitctl.data.sources.manifest import Hints

__all__ = ["Declared", "Found", "Hints", "Refused", "Sighting", "Source", "open_source"]
