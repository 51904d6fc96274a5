"""A checkpoint as a folder for others: weights in the safetensors format (no code in it), the metadata as JSON, a model card.

The layout is what the Hugging Face hub expects of a model repository. `segkit.load` and every `ckpt=` take such a folder,
or `hf://OWNER/NAME`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from segkit.models import checkpoint
from segkit.models.checkpoint import METADATA_FILE, WEIGHTS_FILE
from segkit.models.fitting import PREFIX, model_weights
from segkit.models.metadata import Metadata, check_structure, read_metadata
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import atomic_path, write_text_atomic


def save(ckpt: str | Path, folder: str | Path) -> Path:
    """The checkpoint or run folder `ckpt` as a folder to share; overwrites what an earlier call left there."""
    source, folder = checkpoint.find(ckpt), Path(folder).expanduser()
    content = checkpoint.read(source)
    known = read_metadata(source, content)
    check_structure(source, known)
    metadata, weights = without_local(known), model_weights(source, content)
    foreign = [
        path.name for path in folder.glob("*") if path.name not in (WEIGHTS_FILE, METADATA_FILE, "README.md", ".git", ".gitattributes")
    ]
    if foreign:
        raise SegkitError(f"{folder} holds other files ({', '.join(foreign[:3])});   name another  output=FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    state = {PREFIX + key: value.contiguous().clone() for key, value in weights.items()}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(state, temporary, {"format": "pt", checkpoint.DIGEST: checkpoint.digest(state, metadata)})
    write_text_atomic(folder / METADATA_FILE, json.dumps(metadata, indent=1) + "\n")
    write_text_atomic(folder / "README.md", model_card(metadata))
    return folder


def without_local(metadata: Metadata) -> dict[str, Any]:
    """Remove the paths of a machine, and the names of cases, which may be those of patients."""
    plain = metadata.as_dict()
    before = plain["config"]
    names = {key: None if is_place(value) else value for key, value in before["data"]["source"].items()}
    changed = {
        "data": {**before["data"], "root": None, "exclude": [], "source": {key: v for key, v in names.items() if v is not None}},
        "split": {**before["split"], "path": None},
        "model": checkpoint.without_downloads(before["model"]),
        **dict.fromkeys(("resume", "init_from", "run")),
        "output_dir": "outputs",
    }
    return {**plain, "config": {**before, **changed}, "data_root": "", "split": {side: [] for side in plain["split"]}}


def is_place(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "~")) or "\\" in value or ":/" in value)


def model_card(metadata: dict[str, Any]) -> str:
    """README.md with the header that the hub reads."""
    config, score = metadata["config"], metadata["score"]
    classes = ", ".join(dict.fromkeys(name for name in metadata["labels"]["values"].values() if name not in ("background", "ignore")))
    kind = "volumes" if metadata["dims"] == 3 else "images"
    lines = [
        "---\nlibrary_name: segkit\npipeline_tag: image-segmentation\ntags: [segkit, medical, segmentation]\n---",
        f"# {config['name']}",
        f"Segments {classes} in {kind} with {metadata['channels']} channel{'s' if metadata['channels'] > 1 else ''}. "
        f"Network: `{config['model']['_target_']}`.",
        *(["**Trained on synthetic phantom data: its masks mean nothing on real images.**"] if metadata["is_phantom"] else []),
        *([f"Validation, at the checkpoint's epoch: {', '.join(f'{key} {value:.4g}' for key, value in score.items())}."] if score else []),
        "```bash\nsegkit predict ckpt=FOLDER_OR_hf://OWNER/NAME input=IMAGES output=MASKS\n```",
        "```python\nimport segkit\nmask = segkit.load('FOLDER').predict('image.png').mask\n```",
    ]
    return "\n\n".join(lines) + "\n"


def push(folder: str | Path, repository: str, private: bool = True) -> str:
    """Upload a shared folder to the Hugging Face hub as OWNER/NAME; return its address. Needs `hf auth login` once."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.whoami()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=repository, allow_patterns=[WEIGHTS_FILE, METADATA_FILE, "README.md"])
    except LocalTokenNotFoundError as error:
        raise SegkitError(f"push={repository}: nobody is logged in to the Hugging Face hub;   hf auth login") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SegkitError(f"push={repository}: {first_line(error)}") from error
    return str(url)
