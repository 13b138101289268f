"""The Model Context Protocol over the official SDK: tools, resources, prompts. Any transport."""
