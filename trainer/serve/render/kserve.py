"""KServe: an InferenceService (serving.kserve.io/v1beta1) whose predictor is the vLLM of `vllm.py`.

KServe's own runtime speaks other protocols for classifiers, so the container is ours. KServe brings the model from
`STORAGE_URI` to /mnt/models. The model's digest is an annotation only: nothing of ours runs between that and the
engine.
"""

from typing import Any

from trainer.serve.render import Deployed, vllm
from trainer.serve.render._objects import PORT, metadata

MODELS = "/mnt/models"  # where KServe's storage initializer leaves a model
CONTAINER = "kserve-container"  # what KServe calls the container that it looks after


def render(asked: Deployed) -> list[dict[str, Any]]:
    engine = vllm.engine(asked, MODELS)
    engine["name"] = CONTAINER
    engine["env"].append({"name": "STORAGE_URI", "value": asked.storage})
    engine["ports"] = [{"name": "http1", "containerPort": PORT, "protocol": "TCP"}]
    engine["volumeMounts"] = [mount for mount in engine["volumeMounts"] if mount["name"] == "shm"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        engine[probe]["httpGet"] = {"path": "/health", "port": PORT}
    predictor = {
        "minReplicas": asked.replicas,
        "automountServiceAccountToken": False,
        "containers": [engine],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    return [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata(asked),
            "spec": {"predictor": predictor},
        }
    ]
