"""What leaves the library: fields and runs in the formats of others."""
