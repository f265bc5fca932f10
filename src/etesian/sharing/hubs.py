"""Where shared runs lie: in a folder, behind an address, or in a repository of Hugging Face."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import etesian
from etesian.core.errors import DataError, EtesianError, RecipeError, first_line
from etesian.core.outputs import BY_THE_SYSTEM, MARKER
from etesian.files.copies import copy_files
from etesian.files.zarrs import system_of
from etesian.sharing.manifest import MANIFEST, Content

_BESIDE = (MANIFEST, MARKER, ".gitattributes")
"""What may lie beside the files of a run, of which nothing is read but the manifest."""

_REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


class Files:
    """A folder here or elsewhere. Its manifest is written first: what an interrupted push left is known by it."""

    def __init__(self, address: str) -> None:
        self.address = address
        with _answering(address):  # a client may ask for credentials
            self.system, self.path = system_of(address, anonymous=False)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of what lies there beside the manifest, by path below the place; of http(s) none."""
        with _answering(self.address):
            self.system.invalidate_cache()
            lists = not self.address.startswith(("http://", "https://")) and self.system.exists(self.path)
            found = self.system.find(self.path, withdirs=True, detail=True) if lists else {}
        if link := next((name for name, told in found.items() if told.get("islink")), None):
            raise DataError(f"{link} is a symbolic link, which no shared run holds: give the place that it points to")
        files = {name: told["size"] for name, told in found.items() if told["type"] == "file"}
        return _beside({name.removeprefix(self.path).lstrip("/"): int(size) for name, size in files.items()})

    def manifest(self) -> bytes | None:
        """Return the manifest, None where there is none."""
        with _answering(self.address):
            try:
                return bytes(self.system.cat_file(f"{self.path}/{MANIFEST}"))
            except FileNotFoundError:
                return None

    def copy(self, names: Iterable[str], folder: Path) -> None:
        """Copy files that are not there yet into a folder; with a part of one it goes on."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with _answering(self.address):
            copy_files({f"{self.address}/{name}": folder / name for name in names}, anonymous=False)

    def put(self, content: Content, stale: Iterable[str]) -> None:
        """Write files, the first one first, in place of those that were there."""
        with _answering(self.address):
            for name in stale:
                self.system.rm_file(f"{self.path}/{name}")
            for name, each in content.items():
                place = f"{self.path}/{name}"
                self.system.makedirs(place.rpartition("/")[0], exist_ok=True)
                if isinstance(each, bytes):
                    self.system.pipe_file(place, each)
                else:
                    self.system.put_file(str(each), place)


class _Repository(Files):
    """A repository of Hugging Face, by its own client; a push is one commit, and a pull is of one."""

    def __init__(self, address: str) -> None:
        found = _REPOSITORY.fullmatch(address)
        if found is None:
            raise RecipeError(f"{address} is no repository: give hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
        self.address, self.name, self.revision = address, found[1], found[2]
        try:
            import huggingface_hub
        except ImportError:
            raise RecipeError("Hugging Face needs the extra 'hub': pip install 'etesian[hub]'") from None
        self.client: Any = huggingface_hub
        self.api: Any = huggingface_hub.HfApi(library_name="etesian", library_version=etesian.__version__)
        self.commit: str | None = None

    def sizes(self) -> dict[str, int]:
        return _beside(self._all())

    def manifest(self) -> bytes | None:
        if MANIFEST not in self._all():
            return None
        with tempfile.TemporaryDirectory() as folder:
            self.copy([MANIFEST], Path(folder))
            return (Path(folder) / MANIFEST).read_bytes()

    def copy(self, names: Iterable[str], folder: Path) -> None:
        with _answering(self.address):
            for name in names:
                self.api.hf_hub_download(self.name, name, revision=self.commit, local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    def put(self, content: Content, stale: Iterable[str]) -> None:
        add, delete = self.client.CommitOperationAdd, self.client.CommitOperationDelete
        changes = [add(name, each if isinstance(each, bytes) else str(each)) for name, each in content.items()]
        changes += [delete(name) for name in stale if name not in content]
        with _answering(self.address):
            self.api.create_repo(self.name, exist_ok=True)
            self.api.create_commit(self.name, changes, commit_message="A run of etesian", revision=self.revision)

    def _all(self) -> dict[str, int]:
        with _answering(self.address):
            try:
                info = self.api.repo_info(self.name, revision=self.commit or self.revision, files_metadata=True)
            except (self.client.errors.RepositoryNotFoundError, self.client.errors.RevisionNotFoundError):
                return {}
        self.commit = info.sha
        return {each.rfilename: int(each.size or 0) for each in info.siblings}


def place_of(address: str | Path) -> Files:
    """Return the place that an address means.

    Raises:
        EtesianError: if it is none, or what reads it is not installed.
    """
    text = str(address).rstrip("/").removeprefix("file://")
    return _Repository(text) if text.startswith("hf:") else Files(text)


def _beside(files: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in files.items() if name not in _BESIDE and Path(name).name not in BY_THE_SYSTEM}


@contextmanager
def _answering(address: str) -> Iterator[None]:
    try:
        yield
    except EtesianError:
        raise
    except Exception as error:  # each system and client has kinds of its own
        raise DataError(f"{address} fails ({first_line(error)}); run the same command again to go on") from None
