"""Manifests for larger engines: what Kubernetes takes, what decides the answers, and what is refused.

Kubernetes objects are held against the strict JSON schemas of Kubernetes 1.37 (package `kubernetes-validate`); KServe's
own layers against the fields of its SDK (`kserve-0.21.0.json`), the pod in it against the schema of a Pod.
"""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from served import servable
from tiny import make_chat

from trainer.inputs import folders
from trainer.serve import render
from trainer.serve.problems import NotServable
from trainer.serve.render import Deployed

KUBERNETES = "1.37"
KSERVE = json.loads(Path(__file__).with_name("kserve-0.21.0.json").read_text())["fields"]
EMBEDDING = {"pooling_method": "mean", "normalize_embeddings": True, "max_length": 32, "truncation": False}


def asked(model: Path, interface: str, recipe: str, arguments: dict[str, Any], **changes: Any) -> Deployed:
    run = servable(model, interface, recipe, **arguments)
    given: dict[str, Any] = {"storage": "pvc://models/news/run-1", "name": "news", "served_names": ("news", "run-1")}
    return Deployed(run=run, model=model, **{**given, **changes})


@pytest.fixture
def encoder_run(encoder: Path, tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    for file in encoder.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    return model


def validate(objects: list[dict[str, Any]]) -> None:
    """As `kubectl apply --validate=strict` would, and after a round through YAML, which is what is written."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the package of the dev group")
    for one in yaml.safe_load_all(yaml.safe_dump_all(objects, allow_unicode=True)):
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def args_of(objects: list[dict[str, Any]]) -> list[str]:
    (pod,) = [one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"]
    return list(pod["containers"][0]["args"])


def value(args: list[str], flag: str) -> str:
    return args[args.index(flag) + 1]


@pytest.mark.parametrize("engine", ["vllm", "tei"])
@pytest.mark.parametrize(
    "changes", [{}, {"gpus": 0, "replicas": 3, "key_secret": "serving-key", "image": "my/own:1"}], ids=["plain", "all"]
)
def test_a_deployment_is_one_that_kubernetes_takes(encoder_run: Path, engine: str, changes: dict[str, Any]) -> None:
    objects = render.render(asked(encoder_run, "/v1/embeddings", "embedding", EMBEDDING, **changes), engine)

    validate(objects)
    assert [one["kind"] for one in objects] == ["ConfigMap", "Deployment", "Service"]
    container = objects[1]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == ({} if changes else {"limits": {"nvidia.com/gpu": "1"}})
    keys = [env for env in container["env"] if "valueFrom" in env]
    assert [key["valueFrom"]["secretKeyRef"]["name"] for key in keys] == (["serving-key"] if changes else [])
    assert objects[2]["spec"]["selector"].items() <= objects[1]["spec"]["template"]["metadata"]["labels"].items()


def test_the_schemas_do_refuse() -> None:
    """Else the tests here would prove nothing."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the package of the dev group")
    misspelt = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dataa": {}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, KUBERNETES, strict=True)


def test_the_checksums_are_those_of_the_model_and_sha256sum_reads_them(encoder_run: Path) -> None:
    config, deployment, _ = render.render(asked(encoder_run, "/v1/embeddings", "embedding", EMBEDDING), "vllm")

    sums = encoder_run.parent / "sums"
    sums.write_text(config["data"]["sha256sums"])
    fine = subprocess.run(["sha256sum", "-c", str(sums)], cwd=encoder_run, capture_output=True, check=False)
    (encoder_run / "config.json").write_text("{}")
    spoilt = subprocess.run(["sha256sum", "-c", str(sums)], cwd=encoder_run, capture_output=True, check=False)

    checker = deployment["spec"]["template"]["spec"]["initContainers"][0]
    assert (fine.returncode, spoilt.returncode) == (0, 1)
    assert (checker["command"], checker["workingDir"]) == (["sha256sum", "-c", "/sums/sha256sums"], "/models")


def test_objects_say_whose_model_it_is(encoder_run: Path) -> None:
    plain = asked(encoder_run, "/v1/embeddings", "embedding", EMBEDDING)
    deployment = render.render(plain, "vllm")[1]

    assert deployment["metadata"]["labels"]["tagwarden/run-id"] == "run-1"
    assert deployment["metadata"]["annotations"]["tagwarden/accepted"] == "true"
    assert deployment["metadata"]["annotations"]["tagwarden/model-digest"] == folders.folder_digest(encoder_run)


def test_pooling_length_and_normalisation_are_written_out_for_vllm(encoder_run: Path) -> None:
    arguments = {**EMBEDDING, "pooling_method": "lasttoken", "normalize_embeddings": False}
    args = args_of(render.render(asked(encoder_run, "/v1/embeddings", "embedding", arguments), "vllm"))

    assert json.loads(value(args, "--pooler-config")) == {"pooling_type": "LAST", "use_activation": False}
    assert (value(args, "--max-model-len"), value(args, "--dtype")) == ("32", "float32")
    assert (value(args, "--runner"), value(args, "--convert")) == ("pooling", "embed")
    assert args[args.index("--served-model-name") + 1 :][:2] == ["news", "run-1"]


def test_pooling_and_cutting_are_written_out_for_tei(encoder_run: Path) -> None:
    def args(**changes: Any) -> list[str]:
        arguments = {**EMBEDDING, **changes}
        return args_of(render.render(asked(encoder_run, "/v1/embeddings", "embedding", arguments), "tei"))

    assert value(args(), "--pooling") == "mean"
    assert value(args(pooling_method="lasttoken"), "--pooling") == "last-token"
    assert ["--auto-truncate" in args(truncation=cut) for cut in (True, False)] == [True, False]


def test_the_chat_template_is_the_run_s_own_file(tmp_path: Path) -> None:
    model = make_chat(tmp_path / "model")
    objects = render.render(asked(model, "/v1/chat/completions", "dpo", {"max_length": 64}), "vllm")

    validate(objects)
    assert value(args_of(objects), "--chat-template") == "/models/chat_template.jinja"
    digest = hashlib.sha256((model / "chat_template.jinja").read_bytes()).hexdigest()
    assert objects[1]["metadata"]["annotations"]["tagwarden/chat-template-digest"] == f"sha256:{digest}"


def test_an_inference_service_has_kserve_s_fields_around_a_pod(encoder_run: Path) -> None:
    plain = asked(encoder_run, "/v1/embeddings", "embedding", EMBEDDING, storage="s3://models/news/run-1")
    (service,) = render.render(plain, "kserve")

    predictor = service["spec"]["predictor"]
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service.keys() <= KSERVE["V1beta1InferenceService"].keys()
    assert service["spec"].keys() <= KSERVE["V1beta1InferenceServiceSpec"].keys()
    assert predictor.keys() <= KSERVE["V1beta1PredictorSpec"].keys()
    ours = {"minReplicas"}
    pod = {name: said for name, said in predictor.items() if name not in ours}
    validate([{"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": pod}])
    (container,) = predictor["containers"]
    assert container["args"][0] == "/mnt/models"
    assert {"name": "STORAGE_URI", "value": "s3://models/news/run-1"} in container["env"]


@pytest.mark.parametrize(
    ("interface", "recipe", "changes", "engine", "why"),
    [
        ("/v1/embeddings", "embedding", {"normalize_embeddings": False}, "tei", "to length 1"),
        ("/v1/chat/completions", "sft", {}, "tei", "would not answer"),
        ("/v1/chat/completions", "pre-training", {}, "vllm", "no chat template"),
        ("/v1/rerank", "reward-modeling", {}, "vllm", "through a template"),
    ],
)
def test_what_an_engine_would_answer_otherwise_is_refused(
    encoder_run: Path, interface: str, recipe: str, changes: dict[str, Any], engine: str, why: str
) -> None:
    with pytest.raises(NotServable, match=why):
        render.render(asked(encoder_run, interface, recipe, {**EMBEDDING, **changes}), engine)


def test_tei_takes_classifiers_of_one_label_only(encoder_run: Path) -> None:
    config = json.loads((encoder_run / "config.json").read_text())
    given = (encoder_run, "/v1/classify", "sequence-classification", {"max_length": 32})

    (encoder_run / "config.json").write_text(json.dumps({**config, "problem_type": "single_label_classification"}))
    validate(render.render(asked(*given), "tei"))
    (encoder_run / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    with pytest.raises(NotServable, match="multi_label_classification"):
        render.render(asked(*given), "tei")


@pytest.mark.parametrize("storage", ["s3://bucket/model", "pvc://", "pvc://claim/../other", "/a/path"])
def test_a_deployment_mounts_a_claim(encoder_run: Path, storage: str) -> None:
    with pytest.raises(NotServable, match="pvc://"):
        render.render(asked(encoder_run, "/v1/embeddings", "embedding", EMBEDDING, storage=storage), "vllm")


def test_an_adapter_is_merged_first(encoder_run: Path) -> None:
    run = servable(encoder_run, "/v1/embeddings", "embedding", **EMBEDDING)
    (encoder_run / "adapter_config.json").write_text("{}")
    with pytest.raises(NotServable, match="merged"):
        render.model_of(run)

    merged = encoder_run.parent / "merged"
    merged.mkdir()
    (merged / "merge.json").write_text("{}")
    assert render.model_of(run) == merged
