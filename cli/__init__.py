"""The command `poxvisio`, and the services it brings along."""
