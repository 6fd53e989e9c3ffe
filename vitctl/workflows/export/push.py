"""Uploads an exported folder to the Hugging Face hub."""

from vitctl.errors import RunError, UsageError
from vitctl.reporting import Reporter, mute_loggers


def check_push(repository: str | None) -> None:
    """Checks the name and the token before anything is computed."""
    if repository is None:
        return
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--push {repository}: not the name of a repository, such as OWNER/NAME") from error
    if not get_token():
        raise UsageError(f"--push {repository}: needs a token with write access; set HF_TOKEN")


def push_folder(folder: str, repository: str, reporter: Reporter) -> str:
    """Uploads all files in one commit; returns its page."""
    from huggingface_hub import HfApi

    hub = HfApi()
    reporter.note(f"push: {folder} to {repository}")
    try:
        with mute_loggers("huggingface_hub"):
            hub.create_repo(repository, exist_ok=True)
            commit = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by vitctl export")
    except Exception as error:  # of the hub's client or its network library
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise RunError(f"{folder}: written and kept, but not uploaded to {repository} ({text})") from error
    return str(commit.commit_url)
