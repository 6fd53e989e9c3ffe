"""Where images come from: one interface, and a reader for each format in which people keep them."""

from vitctl.data.sources.contract import Declared, FoundImage, Refused, Sighting, Source
from vitctl.data.sources.detect import open_source
from vitctl.data.sources.labels import Hints

__all__ = ["Declared", "FoundImage", "Hints", "Refused", "Sighting", "Source", "open_source"]
