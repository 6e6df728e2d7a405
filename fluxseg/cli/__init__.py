"""The `fluxseg` command, a file for each kind of verb."""
