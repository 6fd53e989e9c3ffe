"""Files of object stores and web servers, through fsspec: read in ranges, and again where a connection was cut.

Each process opens its own connections. Every answer is checked to be of the version that was found at first.
"""

import errno
import glob
import io
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

from vitctl.data.sources.addresses import address_beside, hide_secrets, is_web_address
from vitctl.data.sources.files import File, Window, error_text
from vitctl.data.sources.patterns import expand_braces
from vitctl.errors import ChangedSource, DataError, RunError, VitctlError
from vitctl.reporting import mute_loggers

PATIENCE = 60.0  # seconds without a new byte after which a file counts as lost
PATIENCE_AT_FIRST = 5.0  # the same when it is opened: the address may be misspelled
LONGEST_WAIT = 8.0  # seconds between two attempts
HEAD = 1 << 18  # bytes that opening an image reads: most images are shorter
PIECE = 1 << 23  # bytes of one request to a store whose answers come whole or not at all
NEAR = 1 << 20  # bytes: a read that starts this close behind the last one continues it
AHEAD = 1 << 22  # bytes that a continued read fetches at most; as many behind it are kept
THREADS = 16  # that open the files of a pattern
PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}  # the extra remote
VERSIONS = ("ETag", "etag", "blob_id", "generation", "md5Hash", "mtime", "LastModified", "last_modified", "updated")
RESERVED = "%:/?#[]@!$&'()*+,;=~"  # characters of an address that is encoded already
AT_COMMIT = r"hf://[^@]+@[0-9a-f]{40}/"  # addresses of files that cannot change
WORDS = {401: "needs a login", 403: "access is denied", 404: "does not exist", 410: "does not exist"}
LOST = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile(File):
    """`path` is its address without secrets, which errors and names show, and `url` the whole address."""

    url: str = field(repr=False)

    @classmethod
    def find(cls, url: str, is_absent: "Callable[[Exception], bool] | None" = None) -> "RemoteFile | None":
        """None if there is no such file. Raises DataError if it cannot be opened."""
        where = hide_secrets(url)
        try:
            size, version, _ = persist(lambda: connection_to(url, os.getpid()).open(0), PATIENCE_AT_FIRST)
        except VitctlError:
            raise
        except Exception as error:  # every library has its own
            if (is_absent or is_missing)(error):
                return None
            if isinstance(error, IsADirectoryError):
                raise DataError(f"{where}: is a folder; name its files, as in {where.rstrip('/')}/*.tar") from error
            raise DataError(f"{where}: cannot be read ({explain_failure(error)})") from error
        return cls(where, size, version, url)

    @classmethod
    def at_address(cls, url: str) -> "RemoteFile":
        file = cls.find(url)
        if file is None:
            raise DataError(f"{hide_secrets(url)}: does not exist")
        return file

    def find_beside(self, name: str) -> File | None:
        return RemoteFile.find(address_beside(self.url, name), is_lost)  # a store may deny it in place of "not found"

    def open(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(Window(self, 0, self.size), 1 << 16))

    def read(self, offset: int, size: int) -> bytes:
        if size == 0:
            return b""
        if offset + size > self.size:
            raise DataError(f"{self.path}: ends before byte {offset + size}; it is damaged or truncated")
        return read_ahead(self, os.getpid()).read(offset, size)

    def fetch(self, offset: int, size: int, patience: float | None = None) -> bytearray:
        """These bytes, from the server. A range that is cut goes on where it was cut."""
        connection, content = connection_to(self.url, os.getpid()), bytearray()
        attempts = Attempts(PATIENCE if patience is None else patience)
        while len(content) < size:
            before = len(content)
            try:
                connection.receive(content, offset + before, offset + size, self)
                if len(content) == before:
                    raise ConnectionError("the server sent nothing")
            except VitctlError:
                raise
            except Exception as error:  # every library has its own
                if is_lost(error):
                    raise self.explain_loss(error) from error
                if len(content) > before:
                    attempts.restart()
                if not attempts.wait():
                    raise self.explain_loss(error) from error
        return content

    def explain_loss(self, error: Exception) -> RunError:
        return RunError(f"{self.path}: cannot be read ({explain_failure(error)}); once it can, add --resume")

    def check_version(self, size: int, version: str) -> None:
        if size != self.size or (version and self.modified and version != self.modified):
            raise ChangedSource(f"{self.path}: was changed while it was read; start over with --overwrite")


class Attempts:
    """When to try again, and when to give up."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.restart()

    def restart(self) -> None:
        """After a success, even a partial one."""
        self.count, self.since = 0, time.monotonic()

    def wait(self) -> bool:
        """Sleeps longer each time. False if the patience is over."""
        pause = min(0.1 * 2**self.count, LONGEST_WAIT) if self.count else 0.0
        self.count += 1
        if time.monotonic() + pause - self.since > self.patience:
            return False
        time.sleep(pause)
        return True


def persist(action: Callable[[], Result], patience: float) -> Result:
    """Tries until it works; raises the last error if the patience is over, or if another attempt is of no use."""
    attempts = Attempts(patience)
    while True:
        try:
            return action()
        except VitctlError:
            raise
        except Exception as error:  # every library has its own
            if is_lost(error) or not attempts.wait():
                raise


class ReadAhead:
    """What this process read last of a file. Reads that go forward fetch more and more ahead, as disks do."""

    def __init__(self, file: RemoteFile) -> None:
        self.file, self.lock = file, threading.Lock()
        self.start, self.content, self.ahead = 0, bytearray(), 0

    def read(self, offset: int, size: int) -> bytes:
        with self.lock:
            end = self.start + len(self.content)
            if not self.start <= offset <= offset + size <= end:
                if self.start <= offset <= end + max(self.ahead, NEAR) and self.content:
                    self.ahead = min(max(2 * self.ahead, NEAR // 4), AHEAD)
                else:
                    self.start, self.content, self.ahead, end = offset, bytearray(), 0, offset
                last = min(max(offset + size, offset + self.ahead), self.file.size)
                self.content += self.file.fetch(end, last - end)
            place = offset - self.start
            found = bytes(memoryview(self.content)[place : place + size])
            surplus = min(place, len(self.content) - 2 * AHEAD)
            if surplus > 0:
                self.start, self.content = self.start + surplus, self.content[surplus:]
            if len(self.content) > 4 * AHEAD:  # a Parquet row group: nobody reads it again
                self.start, self.content = self.start + len(self.content) - AHEAD, self.content[-AHEAD:]
            return found


@lru_cache(maxsize=8)
def read_ahead(file: RemoteFile, process: int) -> ReadAhead:
    return ReadAhead(file)


class Connection:
    """A file in any file system of fsspec."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.path = open_file_system(url)

    def open(self, count: int) -> tuple[int, str, bytes]:
        """Size, version and the first `count` bytes, or more. May raise anything."""
        self.fs.invalidate_cache()
        info = self.fs.info(self.path)
        if info["type"] == "directory":
            raise IsADirectoryError
        size = int(info["size"])
        version = next((f"{info[name]}" for name in VERSIONS if info.get(name)), "")
        return size, version, self.fs.cat_file(self.path, 0, min(count, size)) if count and size else b""

    def receive(self, content: bytearray, start: int, end: int, file: RemoteFile) -> None:
        """Appends the bytes from `start` to `end`, or only the first of them. May raise anything."""
        end = min(end, start + PIECE)
        piece = self.fs.cat_file(self.path, start, end)
        if len(piece) != end - start:
            raise ConnectionError(f"{len(piece)} bytes in place of {end - start}")
        file.check_version(*self.open(0)[:2])
        content += piece


class WebConnection(Connection):
    """HTTP: one request says both the bytes and their version, and bytes that came before a cut are kept."""

    def open(self, count: int) -> tuple[int, str, bytes]:
        from fsspec.asyn import sync

        content = bytearray()
        size, version = sync(self.fs.loop, self.ask, content, 0, max(count, 1), None)
        return size, version, bytes(content)

    def receive(self, content: bytearray, start: int, end: int, file: RemoteFile) -> None:
        from fsspec.asyn import sync

        sync(self.fs.loop, self.ask, content, start, end, file)

    async def ask(self, content: bytearray, start: int, end: int, file: RemoteFile | None) -> tuple[int, str]:
        """Appends the bytes that come; returns size and version of the file, which must be those of `file`."""
        import aiohttp
        from yarl import URL

        options = dict(self.fs.kwargs)
        headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=30)
        session = await self.fs.set_session()
        url = URL(quote(self.path, safe=RESERVED), encoded=True)  # a signature must stay as it is written
        async with session.get(url, headers=headers, timeout=timeout, **options) as answer:
            if answer.status == 200 and start > 0:
                raise DataError(f"{hide_secrets(self.url)}: its server cannot send parts of files; download it first")
            size = size_of_answer(answer.status, answer.reason, answer.headers, start)
            version = answer.headers.get("ETag", "").removeprefix("W/") or answer.headers.get("Last-Modified", "")
            if file is not None:
                file.check_version(size, version)
            left = min(end, size) - start
            if answer.status in (200, 206):
                async for piece in answer.content.iter_any():
                    content += piece[:left]
                    left -= len(piece)
                    if left <= 0:
                        break
            return size, version


class HubConnection(Connection):
    """The hub of data sets, at a commit: its files cannot change."""

    def receive(self, content: bytearray, start: int, end: int, file: RemoteFile) -> None:
        end = min(end, start + PIECE)
        with mute_loggers("huggingface_hub"):  # it reports its own attempts
            piece = self.fs.cat_file(self.path, start, end, size=file.size, cache_type="none")
        if len(piece) != end - start:
            raise ConnectionError(f"{len(piece)} bytes in place of {end - start}")
        content += piece


def size_of_answer(status: int, reason: str, headers: Any, start: int) -> int:
    """The size of the whole file, from the answer to a request for a part of it."""
    if status == 206:
        match = re.fullmatch(rf"bytes {start}-\d+/(\d+)", headers.get("Content-Range", ""))
        if match is None:
            raise PermissionError(errno.EPERM, "its server sends other parts than it is asked for")
        return int(match[1])
    if status == 416:  # the file ends before the part begins
        return int(headers.get("Content-Range", "*/0").rpartition("/")[2])
    if status == 200 and "Content-Length" in headers:  # the whole file
        return int(headers["Content-Length"])
    if status < 400:
        raise PermissionError(errno.EPERM, f"its server answers {status} {reason} and no size; download it first")
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, f"{status} {reason}")
    if status < 500 and status not in (408, 425, 429):
        raise PermissionError(errno.EPERM, f"{status} {reason}")
    raise OSError(errno.EIO, f"{status} {reason}")


@lru_cache(maxsize=256)
def connection_to(url: str, process: int) -> Connection:
    if is_web_address(url):
        return WebConnection(url)
    return (HubConnection if re.match(AT_COMMIT, url) else Connection)(url)


def open_file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it. Listings are not cached: files may change."""
    where = hide_secrets(url)
    try:
        from fsspec.config import conf
        from fsspec.core import url_to_fs

        protocol = url.partition("://")[0]
        is_pinned = re.match(AT_COMMIT, url) is not None
        options: dict[str, Any] = {} if is_pinned else {"use_listings_cache": False}
        if is_web_address(url):
            chosen = conf.get(protocol, {}).get("client_kwargs", {})
            options["client_kwargs"] = {"auto_decompress": False, "trust_env": True, **chosen}
        return cast(tuple[Any, str], url_to_fs(url, **options))
    except ImportError as error:
        package = PACKAGES.get(url.partition("://")[0])
        advice = f"{package}, which is missing: pip install {package}" if package else error_text(error)
        raise DataError(f"{where}: needs {advice}") from error
    except ValueError as error:
        raise DataError(f"{where}: has a protocol that fsspec does not know") from error


def match_addresses(pattern: str) -> list[RemoteFile]:
    """The files of a pattern with braces and wildcards. Every address that braces write out must exist."""
    where, urls = hide_secrets(pattern), list[str]()
    for each in expand_braces(pattern):
        path = each.partition("?")[0] if is_web_address(each) else each
        urls += list_addresses(each) if glob.has_magic(path) else [each]
    if not urls:
        raise DataError(f"{where}: no file matches")
    with ThreadPoolExecutor(min(len(urls), THREADS)) as pool:
        return list(pool.map(RemoteFile.at_address, urls))


def list_addresses(pattern: str) -> list[str]:
    fs, path = open_file_system(pattern)
    try:
        found = persist(lambda: fs.glob(path), PATIENCE_AT_FIRST)
    except Exception as error:  # every library has its own
        raise DataError(f"{hide_secrets(pattern)}: cannot be listed ({explain_failure(error)})") from error
    return [fs.unstrip_protocol(each) for each in sorted(found)]


def http_status(error: BaseException) -> int:
    """The HTTP status in another library's error, or 0."""
    return int(getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None) or 0)


def is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or http_status(error) in (404, 410)


def is_lost(error: Exception) -> bool:
    """Whether there is no point in trying again."""
    return isinstance(error, LOST) or http_status(error) in WORDS


def explain_failure(error: Exception) -> str:
    """The cause in a few words, without any address, which might hold a secret."""
    if http_status(error) in WORDS:
        return WORDS[http_status(error)]
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, FileNotFoundError):
        text = WORDS[404]
    else:
        text = error_text(error)
    return re.sub(r"\S+://\S+|\?\S+", "...", text)
