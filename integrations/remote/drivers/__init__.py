"""One driver for each kind of server: how requests are written for it, its answers read, and what it can do."""
