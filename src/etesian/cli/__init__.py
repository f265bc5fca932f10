"""The command line."""

import os

# Threads that wait spin by default; beside any other work on the machine that makes small networks many times slower.
# It has to be said before the libraries are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
