"""Client protocols, sessions, HTTP, command line."""
