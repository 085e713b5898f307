"""An audit file as one HTML page for people."""
