"""Recordings in the formats of other tools, one file for each tool or format.

Readers (`read_*`) give a `Recording`, `[H, W]` with masks `[N, H, W]`. They raise `UnsafeFileError`
if a file asks for anything but plain data, which nothing executes, and `RecordingError`, whose text
begins with the path and names the field, if it cannot be used. Writers (`write_*`) write each file
whole or not at all, and return remarks on what the format cannot hold or what was changed. They
raise `RecordingError` if a recording without masks cannot be written, and `WorkdirError` if a file
cannot be.
"""
