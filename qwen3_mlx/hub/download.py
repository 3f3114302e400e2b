"""Downloading whole snapshots from the hub, or a model's config.json and headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import ConfigError, HubError
from qwen3_mlx.files import read_json
from qwen3_mlx.hub import releases
from qwen3_mlx.hub.cache import MODEL_FILES, REQUIRED, Source, missing_files
from qwen3_mlx.hub.errors import HubUnreachable, download_error

NOTICES = ("README*", "LICENSE*", "LICENCE*", "NOTICE*")


def snapshot(source: Source) -> Path:
    """Download a repository's model files to the hub's cache; an unfinished download resumes.

    Progress is drawn on stderr. Raises `HubError`.
    """
    from huggingface_hub import snapshot_download

    try:
        found = Path(
            snapshot_download(
                source.repo,
                revision=source.revision,
                allow_patterns=[*MODEL_FILES, *NOTICES],
            )
        )
    except Exception as error:  # a network stack's errors are many; each becomes one of ours
        raise download_error(error, source) from None  # its text may echo a header
    missing = [name for name in missing_files(found) if name in REQUIRED or "safetensors" in name]
    if missing:
        raise HubError(
            f"{source.repo} is no model this package can load",
            got=f"no {', '.join(missing)}",
            expected="config.json, tokenizer files and safetensors weights",
            hint="take a repository in MLX or Hugging Face safetensors format, such as "
            f"{releases.OWNER}/Qwen3-8B-4bit (alias 8b)",
        )
    return found


@dataclass(frozen=True, slots=True)
class Tensor:
    """A remote tensor: type as safetensors spells it, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Description:
    """What can be known of a model without its weights."""

    where: str
    config: dict[str, Any]
    tensors: dict[str, Any] | None
    """Each tensor's dtype, shape and nbytes by name; None where there are no weights to ask."""


def describe(source: Source) -> Description:
    """Config and safetensors headers of a repository, by ranged requests: some kilobytes.

    A released model is described from its known shape if the hub can't be reached.
    Raises `HubError`.
    """
    try:
        return _ask_hub(source)
    except HubUnreachable:
        release = releases.of_repo(source.repo)
        if release is None:
            raise
        where = f"{source.repo}: the published shape at 4 bits, as the hub can't be asked"
        return Description(where, release.config(), None)


def _ask_hub(source: Source) -> Description:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError

    api = HfApi()
    try:
        # asked first because it fails at once without a network; the others retry for 45 s
        commit = api.model_info(source.repo, revision=source.revision).sha
        file = api.hf_hub_download(source.repo, "config.json", revision=commit)
        config = read_json(Path(file))
        try:
            metadata = api.get_safetensors_metadata(source.repo, revision=commit)
        except NotASafetensorsRepoError:
            return Description(f"{source.repo} (on the hub)", config, None)
    except ConfigError:
        raise
    except Exception as error:
        raise download_error(error, source) from None  # its text may echo a header
    tensors = {
        name: Tensor(info.dtype, tuple(info.shape), info.data_offsets[1] - info.data_offsets[0])
        for shard in metadata.files_metadata.values()
        for name, info in shard.tensors.items()
    }
    return Description(f"{source.repo} (on the hub, not downloaded)", config, tensors)
