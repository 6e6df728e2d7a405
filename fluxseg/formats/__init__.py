"""Files of the tools around fluxseg, one file per format."""
