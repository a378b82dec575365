"""Disks: the database, the collections, the templates, the ledger and the keys."""
