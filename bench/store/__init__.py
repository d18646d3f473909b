"""The result store: one crash-safe SQLite file, its leases, its files, packs of it."""
