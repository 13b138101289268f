"""Where notebooks live and code runs. Each folder is one backend, chosen by entry points; nobody imports it."""
