"""Pure signal and text steps: no clock, no I/O, no threads."""
