"""Downloads whole snapshots from the hub, or only a model's config.json and headers."""

from __future__ import annotations

from pathlib import Path

from qwen3_mlx.errors import HubError, Qwen3Error
from qwen3_mlx.files import read_json
from qwen3_mlx.gguf.model import models, split_names
from qwen3_mlx.hub import releases, remote_gguf
from qwen3_mlx.hub.cache import MODEL_FILES, REQUIRED, Source, gguf_choice, missing_files
from qwen3_mlx.hub.description import Description, Tensor
from qwen3_mlx.hub.errors import HubUnreachable, download_error

NOTICES = ("README*", "LICENSE*", "LICENCE*", "NOTICE*")


def snapshot(source: Source) -> Path:
    """Download a repository's model files to the hub's cache, resuming an unfinished download.

    Draws progress on stderr. Raises `HubError`.
    """
    from huggingface_hub import snapshot_download

    try:
        gguf = _gguf_files(source)
        found = Path(
            snapshot_download(
                source.repo,
                revision=source.revision,
                allow_patterns=[*(gguf or MODEL_FILES), *NOTICES],
            )
        )
    except HubError:
        raise
    except Exception as error:  # the network libraries raise many types
        raise download_error(error, source) from None  # the cause may quote a header
    if gguf:
        return found
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


def _gguf_files(source: Source) -> list[str]:
    """The files of the repository's GGUF model, if it has only GGUF or `source` selects one."""
    from huggingface_hub import HfApi

    if not source.variant and "gguf" not in source.repo.lower():
        return []
    names = HfApi().list_repo_files(source.repo, revision=source.revision)
    weights = any(name.endswith(".safetensors") for name in names)
    if not source.variant and (weights or not models(names)):
        return []
    return split_names(gguf_choice(names, source))


def describe(source: Source) -> Description:
    """Config and safetensors headers of a repository, fetched by ranged requests (kilobytes).

    If the hub can't be reached, a released model is described from its known shape.
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
        # First, because it fails at once without a network; the other calls retry for 45 s.
        commit = api.model_info(source.repo, revision=source.revision).sha or source.revision
        if gguf := _gguf_files(source):
            return remote_gguf.describe(source, commit, gguf)
        file = api.hf_hub_download(source.repo, "config.json", revision=commit)
        config = read_json(Path(file))
        try:
            metadata = api.get_safetensors_metadata(source.repo, revision=commit)
        except NotASafetensorsRepoError:
            return Description(f"{source.repo} (on the hub)", config, None)
    except Qwen3Error:
        raise
    except Exception as error:
        raise download_error(error, source) from None  # the cause may quote a header
    tensors = {
        name: Tensor(info.dtype, tuple(info.shape), info.data_offsets[1] - info.data_offsets[0])
        for shard in metadata.files_metadata.values()
        for name, info in shard.tensors.items()
    }
    return Description(f"{source.repo} (on the hub, not downloaded)", config, tensors)
