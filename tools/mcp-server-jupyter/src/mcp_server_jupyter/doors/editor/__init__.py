"""The door of editors' windows: one stream of events and one route back (docs/editor-protocol.md). Routes of `http`."""
