"""The small models that the training tests share, made once a session."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # on a tiny model two threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may ask the network
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # float32 on the CPU, where the same seed gives the same bits

sys.path.insert(0, str(Path(__file__).parent))  # for `tiny`, whatever pytest's import mode


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoder"))


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
