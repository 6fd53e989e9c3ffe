"""Addresses of remote sources, as text: s3://bucket/a.tar, https://host/a.parquet, hf:owner/name:train."""

import os
import posixpath
import re
from urllib.parse import quote

from vitctl.data.sources.names import Parts

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|hf:")
SECRET_KEY = re.compile(r"sig|token|key|secret|pass|auth|cred|policy|hmac|jwt|session|expires", re.IGNORECASE)


def is_address(text: str) -> bool:
    return ADDRESS.match(text) is not None


def is_web_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def hide_secrets(text: str) -> str:
    """Without user:password@ and without the query, which may be a signature. Other text stays as it is."""
    if not is_address(text):
        return text
    text = re.sub(r"://[^/]*@", "://", text)
    return re.split(r"[?#]", text, maxsplit=1)[0] if is_web_address(text) else text


def name_of_address(address: str) -> str:
    """'mnist-train' for hf:ylecun/mnist:train, and 'set' for https://host/set.parquet."""
    last = hide_secrets(address).rstrip("/").rpartition("/")[2].removeprefix("hf:")
    stem = re.split(r"\.(?=\w+$|tar\.)", last, maxsplit=1)[0]
    return re.sub(r"\W+", "-", stem).strip("-") or "data"


def holds_secrets(address: str) -> bool:
    """Whether it holds a password, or a query that looks like a signature."""
    if not is_address(address):
        return False
    keys = re.findall(r"[?&]([^=&]+)", address)
    return re.search(r"://[^/]*@", address) is not None or any(map(SECRET_KEY.search, keys))


def resolve_address(parts: Parts, root: str) -> str:
    """The address of a path in a manifest: absolute, or relative to `root`, the address of a folder."""
    path = "/".join(parts)
    if is_address(path):
        return path
    scheme, _, rest = root.partition("://")
    host, _, folder = rest.partition("/")
    path = quote(os.fsencode(path)) if is_web_address(root) else path
    whole = posixpath.normpath(path if path.startswith("/") else f"/{folder}/{path}")
    return f"{scheme}://{host}/{whole.lstrip('/')}"


def address_beside(address: str, name: str) -> str:
    """The address of another file in the same folder. A query stays, because some signatures are for whole folders."""
    path, mark, query = address.partition("?") if is_web_address(address) else (address, "", "")
    return f"{path.rpartition('/')[0]}/{name}{mark}{query}"
