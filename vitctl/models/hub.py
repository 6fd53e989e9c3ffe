"""Checks that the server of pretrained weights answers. Without this, its client would retry for minutes."""

import os
import threading
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import torch

from vitctl.errors import WeightsError

WAIT = 5  # seconds for a connection and the first answer; the download itself has no limit
FILES = ("model.safetensors", "pytorch_model.bin")
NOT_DOWNLOADED = "its weights could not be downloaded"
CHECK = "check the network, or download the file elsewhere and use --from FILE"


def check_reachable(name: str, config: Any) -> None:
    """Requests the headers of the weights that timm's `config` of the model names, unless they are cached."""
    if config is None or not (config.hf_hub_id or config.url) or is_cached(config):
        return
    reasons = [f"no answer within {WAIT} s"]
    # a thread, because a DNS lookup has no timeout and cannot be interrupted
    thread = threading.Thread(target=ask, args=(config, reasons), daemon=True)
    thread.start()
    thread.join(WAIT)
    if reasons:
        server = urlsplit(hub_url(config) if config.hf_hub_id else config.url).netloc
        raise WeightsError(f"timm:{name}: {NOT_DOWNLOADED}: {server} cannot be reached ({reasons[-1]}); {CHECK}")


def ask(config: Any, reasons: list[str]) -> None:
    """Clears `reasons` when the server answers, or appends why it does not."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            status = status_of(config)
        except Exception as error:  # from the network library, which differs between releases of the client
            reasons.append(" ".join(f"{type(error).__name__}: {error}".split())[:120])
            return
        if status < 500:
            reasons.clear()
            return
        reasons.append(f"HTTP status {status}")
        time.sleep(1)  # an overloaded server or gateway may recover


def status_of(config: Any) -> int:
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if config.hf_hub_id:
            get_hf_file_metadata(hub_url(config), timeout=WAIT)
        else:
            urllib.request.urlopen(urllib.request.Request(config.url, method="HEAD"), timeout=WAIT).close()
    except HfHubHTTPError as error:
        return error.response.status_code
    except HTTPError as error:
        return error.code
    return 200


def is_cached(config: Any) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        return os.path.exists(os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(config.url or "")))
    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename] if config.hf_hub_filename else FILES
    return any(isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str) for name in names)


def hub_url(config: Any) -> str:
    from huggingface_hub import hf_hub_url

    repository, _, revision = config.hf_hub_id.partition("@")
    return hf_hub_url(repository, config.hf_hub_filename or FILES[0], revision=revision or None)
