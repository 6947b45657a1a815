"""The model that the training tests share, made once a session in a second."""

import os
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # on a tiny model two threads only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may ask the network
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # float32 on the CPU, where the same seed gives the same bits


sys.path.insert(0, str(Path(__file__).parent))  # for `tiny`, whatever pytest's import mode


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoder"))
