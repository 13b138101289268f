"""REST, health, metrics, events, and MCP over streamable HTTP."""
