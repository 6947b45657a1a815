"""Kubernetes objects around one container that serves a model from a read-only folder."""

from typing import Any

from enforcer.runspec import digest
from trainer.inputs import folders
from trainer.serve.problems import NotServable
from trainer.serve.render import Deployed, sums

MODELS = "/models"
PORT = 8000
CHECKER = "busybox:1.37"
START_S = 1800  # what a large model may take to load
LOCKED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def metadata(asked: Deployed, name: str | None = None) -> dict[str, Any]:
    template = asked.model / "chat_template.jinja"
    annotations = {
        "tagwarden/accepted": _accepted(asked),
        "tagwarden/model-digest": folders.folder_digest(asked.model),
        "tagwarden/run-spec-digest": digest(asked.run.folder.run_spec.read_bytes()),
        **({} if asked.run.forced is None else {"tagwarden/forced": asked.run.forced}),
        **({"tagwarden/chat-template-digest": folders.file_digest(template)} if template.is_file() else {}),
    }
    return {"name": name or asked.name, "labels": labels(asked), "annotations": annotations}


def _accepted(asked: Deployed) -> str:
    """Nobody signs for what an adapter was merged into: `adapter` says that only it was accepted."""
    if asked.run.forced is not None:
        return "false"
    return "true" if asked.model == asked.run.folder.model else "adapter"


def labels(asked: Deployed) -> dict[str, str]:
    spec = asked.run.spec
    return {
        **selector(asked),
        "app.kubernetes.io/managed-by": "tagwarden",
        "tagwarden/task-type": spec.task_type,
        "tagwarden/task-version": str(spec.version),
        "tagwarden/run-id": spec.run_id,
        "tagwarden/business-unit": spec.business_unit,
    }


def selector(asked: Deployed) -> dict[str, str]:
    return {"app.kubernetes.io/name": asked.name}


def container(asked: Deployed, *, image: str, args: list[str], command: list[str], key_variable: str) -> dict[str, Any]:
    """The engine. It finds the model in `MODELS`, asks no hub, and listens on `PORT`."""
    env: list[dict[str, Any]] = [{"name": "HF_HUB_OFFLINE", "value": "1"}]
    if asked.key_secret is not None:
        key = {"secretKeyRef": {"name": asked.key_secret, "key": "api-key"}}
        env.append({"name": key_variable, "valueFrom": key})
    gpus = {"limits": {"nvidia.com/gpu": str(asked.gpus)}} if asked.gpus else {}
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 10}
    return {
        "name": "engine",
        "image": asked.image or image,
        **({"command": command} if command else {}),
        "args": args,
        "env": env,
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": gpus,
        "securityContext": LOCKED,
        "startupProbe": {**health, "failureThreshold": START_S // 10},
        "readinessProbe": health,
        "livenessProbe": {**health, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "model", "mountPath": MODELS, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 -- where torch shares memory, in the container
        ],
    }


def deployment(asked: Deployed, engine: dict[str, Any]) -> list[dict[str, Any]]:
    """A ConfigMap of checksums, a Deployment that checks them before its engine starts, and a Service."""
    claim, path = _claim(asked.storage)
    mounted = {"name": "model", "mountPath": MODELS, "readOnly": True}
    if path:
        mounted["subPath"] = path
        engine["volumeMounts"][0]["subPath"] = path
    checker = {
        "name": "check-model",
        "image": CHECKER,
        "workingDir": MODELS,
        "command": ["sha256sum", "-c", "/sums/sha256sums"],
        "securityContext": LOCKED,
        "volumeMounts": [mounted, {"name": "sums", "mountPath": "/sums", "readOnly": True}],
    }
    volumes = [
        {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
        {"name": "sums", "configMap": {"name": f"{asked.name}-sums"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "initContainers": [checker],
        "containers": [engine],
        "volumes": volumes,
    }
    described = metadata(asked)
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(asked, f"{asked.name}-sums"),
         "data": {"sha256sums": sums(asked.model)}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": described,
         "spec": {"replicas": asked.replicas, "selector": {"matchLabels": selector(asked)},
                  "template": {"metadata": {"labels": labels(asked), "annotations": described["annotations"]},
                               "spec": pod}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata(asked),
         "spec": {"selector": selector(asked), "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}},
    ]  # fmt: skip


def _claim(storage: str) -> tuple[str, str]:
    """`pvc://CLAIM/PATH`, as KServe writes it."""
    if not storage.startswith("pvc://"):
        raise NotServable(
            f"`{storage}`: a Deployment mounts a volume claim, so name the model's place as `pvc://CLAIM/PATH`; other "
            "storage (`s3://`, `gs://`) takes `--render kserve`"
        )
    claim, _, path = storage.removeprefix("pvc://").partition("/")
    if not claim or ".." in path.split("/"):
        raise NotServable(f"`{storage}` names no claim, or leads out of it; it looks like `pvc://models/news/run-1`")
    return claim, path.strip("/")
