"""The small models that the training tests share, made once a session."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def embedder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tiny import EMBEDDING, trained

    return trained(tmp_path_factory.mktemp("embedder"), encoder, EMBEDDING)


@pytest.fixture(scope="session")
def embedder_lora(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tiny import EMBEDDING, trained

    return trained(tmp_path_factory.mktemp("embedder-lora"), encoder, EMBEDDING, use_lora=True)


@pytest.fixture(scope="session")
def classifier_lora(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tiny import CLASSIFICATION, trained

    return trained(tmp_path_factory.mktemp("classifier-lora"), encoder, CLASSIFICATION, use_lora=True)
