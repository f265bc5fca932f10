"""Any file → one canonical dataset."""
