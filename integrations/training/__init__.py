"""Training of draft adapters: `trimode train adapter`."""
