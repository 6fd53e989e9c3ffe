"""Models that left torch's hands: written as files of a runtime's own, and called through that runtime."""
