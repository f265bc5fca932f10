"""How `make docs` builds the site: Sphinx on MyST pages, notebooks that it executes, and docstrings for reference."""

import hashlib
from pathlib import Path

import etesian
from etesian.core.version import __version__

HERE = Path(__file__).parent
HOUSE = Path(etesian.__file__).parent

project = "Etesian"
author = "The Etesian authors"
copyright = author
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
# Pygments knows no CSV, and shells take no ellipsis; these blocks stay plain.
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = "Etesian"
html_show_sphinx = False
html_copy_source = False

# Links to `page.md#heading`, as the pages have them on any host of the repository.
myst_heading_anchors = 4

default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# A notebook runs again when its cells or anything of the library have changed.
sources = (file for file in sorted(HOUSE.rglob("*")) if file.suffix in {".py", ".yaml"})
digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:12]
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed" / digest)
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
# Progress bars, and what libraries warn of without a terminal.
nb_output_stderr = "remove"
