"""The tutor's doors, MCP and REST, for the service that mounts them: it says who may do what."""
