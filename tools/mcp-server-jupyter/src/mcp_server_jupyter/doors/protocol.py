"""Names of the protocol that more than one door needs, free of the SDK, which takes half a second to load."""

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
"""In `params._meta`: the mark of a request of the 2026-07-28 era."""
SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
