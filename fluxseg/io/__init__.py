"""Files, names of files, tables and markup: what touches the outside, whatever is in it."""
