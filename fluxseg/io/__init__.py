"""Read and write safely: atomic files, safe file names, CSV, HTML, arrays of untrusted files."""
