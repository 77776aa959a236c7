"""Other people's instruments as a `Microscope`, one module a vendor, imported only when asked for: `instrument.adapters.NAME`."""
