"""Every interface over real HTTP on a tiny model: its numbers are the library's own, its shapes those clients know."""

import base64
import contextlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from served import servable
from tiny import CLASSIFICATION, LABELS, make_chat

from trainer.serve.accepted import Servable
from trainer.serve.limits import Batching, Limits

NAME = "my-model"


@contextlib.contextmanager
def answering(run: Servable, limits: Limits | None = None, base: Path | None = None) -> Iterator[Any]:
    """An HTTP client of a server in this process, and the server's own view as `client.serving`."""
    import uvicorn

    from trainer.serve import engines
    from trainer.serve.app import create_app
    from trainer.serve.serving import Serving

    serving = Serving(run, engines.load(run, base), limits or Limits(), [NAME])
    config = uvicorn.Config(create_app(serving), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.serving = serving  # type: ignore[attr-defined]
            yield client
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def ask(client: httpx2.Client, path: str, **body: Any) -> Any:
    reply = client.post(path, json={"model": NAME, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client: httpx2.Client, path: str, **body: Any) -> tuple[int, str, str | None]:
    reply = client.post(path, json={"model": NAME, **body})
    document = reply.json()
    assert reply.headers["content-type"] == "application/problem+json"
    assert document["error"]["message"] == document["detail"]
    return reply.status_code, document["code"], document["error"]["param"]


def openai_client(client: httpx2.Client) -> Any:
    openai = pytest.importorskip("openai", reason="the package of the dev group")
    return openai.OpenAI(base_url=f"{client.base_url}/v1".replace("//v1", "/v1"), api_key="none-is-asked-for")


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embeds(embedder: Any) -> Iterator[Any]:
    job, outcome = embedder
    with answering(servable(job.folder.model, "/v1/embeddings", **job.arguments)) as client:
        client.model = outcome.model
        yield client


def test_embeddings_are_those_of_the_library(embeds: Any) -> None:
    texts = ["a chip", "the goal of today and the stock", "w1 w2 w3"]

    told = ask(embeds, "/v1/embeddings", input=texts)

    expected = embeds.model.encode(texts, show_progress_bar=False)
    assert [item["index"] for item in told["data"]] == [0, 1, 2]
    for item, vector in zip(told["data"], expected, strict=True):
        assert item["embedding"] == pytest.approx(vector.tolist(), abs=1e-6)
    # [CLS] and [SEP] stand around 2, 7 and 3 words.
    assert told["usage"] == {"prompt_tokens": 2 + 2 + 7 + 2 + 3 + 2, "completion_tokens": 0, "total_tokens": 18}


def test_base64_is_little_endian_float32(embeds: Any) -> None:
    plain = ask(embeds, "/v1/embeddings", input="a chip")["data"][0]["embedding"]
    packed = ask(embeds, "/v1/embeddings", input="a chip", encoding_format="base64")["data"][0]["embedding"]

    content = base64.b64decode(packed)
    assert struct.unpack(f"<{len(content) // 4}f", content) == pytest.approx(plain, abs=1e-6)


def test_the_openai_client_reads_embeddings(embeds: Any) -> None:
    client = openai_client(embeds)

    told = client.embeddings.create(model=NAME, input=["a chip", "a goal"])

    assert [len(item.embedding) for item in told.data] == [64, 64]
    assert told.usage.prompt_tokens == 8
    assert [model.id for model in client.models.list().data] == [NAME]


def test_the_openai_client_is_told_what_is_wrong_in_its_own_words(embeds: Any) -> None:
    import openai

    client = openai_client(embeds)

    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="text-embedding-3-small", input="a chip")
    with pytest.raises(openai.UnprocessableEntityError) as wide:
        client.embeddings.create(model=NAME, input="a chip", dimensions=8)

    assert (unknown.value.code, unknown.value.param) == ("model-not-found", "model")
    assert (wide.value.param, wide.value.type) == ("dimensions", "invalid_request_error")
    assert "have 64 numbers" in str(wide.value)


def test_requests_of_one_moment_are_one_batch(embedder: Any) -> None:
    job, outcome = embedder
    limits = Limits(batching=Batching(max_wait_s=0.5))
    with answering(servable(job.folder.model, "/v1/embeddings", **job.arguments), limits) as client:
        texts = [f"w{i} and w{i + 1}" for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda text: ask(client, "/v1/embeddings", input=text), texts))
        metrics = client.get("/metrics").text

    expected = outcome.model.encode(texts, show_progress_bar=False)
    for answer, vector in zip(told, expected, strict=True):
        assert answer["data"][0]["embedding"] == pytest.approx(vector.tolist(), abs=1e-6)
    assert "tagwarden_serve_batch_size_sum 8.0" in metrics
    assert "tagwarden_serve_batch_size_count 1.0" in metrics
    assert 'tagwarden_serve_requests_total{path="/v1/embeddings",status="200"} 8.0' in metrics


def test_what_is_too_long_is_refused_unless_cutting_is_allowed(embeds: Any) -> None:
    long = "the " * 40  # this run reads 32 tokens

    assert refused(embeds, "/v1/embeddings", input=["a chip", long]) == (422, "input-refused", "input")
    told = ask(embeds, "/v1/embeddings", input=long, truncate=True)

    assert told["usage"]["prompt_tokens"] == 32
    assert told["data"][0]["embedding"] == pytest.approx(embeds.model.encode([long])[0].tolist(), abs=1e-6)


def test_a_run_that_was_trained_on_cut_texts_cuts_them_here_too(embedder: Any) -> None:
    job, _ = embedder
    with answering(servable(job.folder.model, "/v1/embeddings", **{**job.arguments, "truncation": True})) as client:
        assert ask(client, "/v1/embeddings", input="the " * 40)["usage"]["prompt_tokens"] == 32
        assert refused(client, "/v1/embeddings", input="the " * 40, truncate=False)[0] == 422


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"input": []}, 422, "malformed-request"),
        ({"input": ""}, 422, "malformed-request"),
        ({"input": [[1, 2, 3]]}, 422, "malformed-request"),
        ({"input": "a", "encoding_format": "int8"}, 422, "malformed-request"),
        ({"input": "a", "surprise": 1}, 422, "malformed-request"),
        ({"input": ["a"] * 257}, 422, "input-refused"),
        ({"input": "a" * 1024 * 1024}, 413, "too-large"),
    ],
)
def test_bad_requests_are_refused(embeds: Any, body: dict[str, Any], status: int, code: str) -> None:
    assert refused(embeds, "/v1/embeddings", **body)[:2] == (status, code)


def test_a_model_that_was_forced_says_so(embedder: Any) -> None:
    job, _ = embedder
    run = replace(servable(job.folder.model, "/v1/embeddings", **job.arguments), forced="a demo")
    with answering(run) as client:
        (model,) = client.get("/v1/models").json()["data"]
        metrics = client.get("/metrics").text

    assert model["accepted"] is False
    assert 'tagwarden_serve_model_info{accepted="false"' in metrics


def test_a_page_that_rebinds_its_name_is_turned_away(embeds: Any) -> None:
    reply = embeds.post("/v1/embeddings", json={"model": NAME, "input": "a"}, headers={"Host": "evil.example"})

    assert (reply.status_code, reply.json()["code"]) == (421, "misdirected-request")


def test_an_adapter_answers_with_its_base(embedder_lora: Any, encoder: Path) -> None:
    job, outcome = embedder_lora
    run = servable(job.folder.model, "/v1/embeddings", **job.arguments)
    with answering(run, base=encoder) as client:
        told = ask(client, "/v1/embeddings", input="a chip and w3")

    expected = outcome.model.encode(["a chip and w3"], show_progress_bar=False)[0]
    assert told["data"][0]["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)


# --- classify ---------------------------------------------------------------------------------------------------------


def test_labels_and_probabilities_are_those_of_the_library(classifier_lora: Any, encoder: Path) -> None:
    from transformers import pipeline

    job, _ = classifier_lora
    texts = ["a chip is new", "the goal", "stock today"]
    run = servable(job.folder.model, "/v1/classify", recipe="sequence-classification", **CLASSIFICATION)
    with answering(run, base=encoder) as client:
        told = ask(client, "/v1/classify", input=texts)

    from trainer.recipes import sequence_classification as recipe

    model, tokenizer = recipe.load(job.folder.model, encoder)
    expected = pipeline("text-classification", model.merge_and_unload(), tokenizer=tokenizer, top_k=None)(texts)
    for item, scores in zip(told["data"], expected, strict=True):
        by_name = {score["label"]: score["score"] for score in scores}
        assert item["probs"] == pytest.approx([by_name[name] for name in LABELS], abs=1e-5)
        assert item["label"] == max(by_name, key=by_name.get)
    assert {item["num_classes"] for item in told["data"]} == {3}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("multi_label_classification", {"label": "b", "labels": ["b", "c"], "num_classes": 3}),
        ("single_label_classification", {"label": "b", "num_classes": 3}),
    ],
)
def test_several_labels_hold_from_one_half_on(kind: str, expected: dict[str, Any]) -> None:
    """Logits -1, 2, 0.5: sigmoids 0.27, 0.88, 0.62; softmax 0.04, 0.79, 0.17."""
    import torch

    from trainer.serve.engines.classify import told

    said = told(torch.tensor([-1.0, 2.0, 0.5]), kind, ["a", "b", "c"])

    sums = {"multi_label_classification": 0.2689 + 0.8808 + 0.6225, "single_label_classification": 1.0}
    assert {name: said[name] for name in expected} == expected
    assert sum(said["probs"]) == pytest.approx(sums[kind], abs=1e-3)


# --- rerank -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross_encoder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("cross") / "model"
    CrossEncoder(str(encoder), num_labels=1, max_length=32).save_pretrained(str(folder))
    return folder


def test_documents_come_best_first_with_the_scores_of_the_library(cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    documents = ["the chip", "a goal of w3", "stock", "w9 and w8"]
    with answering(servable(cross_encoder, "/v1/rerank", recipe="reranker", max_length=32)) as client:
        told = ask(client, "/v1/rerank", query="a new chip", documents=documents, return_documents=True)
        top = ask(client, "/v2/rerank", query="a new chip", documents=[{"text": text} for text in documents], top_n=2)

    expected = CrossEncoder(str(cross_encoder)).predict([("a new chip", text) for text in documents])
    order = sorted(range(4), key=lambda i: -expected[i])
    assert [item["index"] for item in told["results"]] == order
    assert [item["document"]["text"] for item in told["results"]] == [documents[i] for i in order]
    assert [item["relevance_score"] for item in told["results"]] == pytest.approx(sorted(expected)[::-1], abs=1e-6)
    assert [item["index"] for item in top["results"]] == order[:2]
    assert "document" not in top["results"][0]


def test_a_reranker_that_asks_a_language_model_counts_what_it_reads(tmp_path: Path) -> None:
    """`PROMPT` around both texts, byte by byte."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore

    from trainer.recipes import reranker

    decoder = make_chat(tmp_path / "decoder", reranker.TEMPLATE)
    transformer = Transformer(str(decoder), transformer_task="text-generation", max_seq_length=128)
    model = CrossEncoder(modules=[transformer, LogitScore(50, 60)])
    model.save_pretrained(str(tmp_path / "model"))
    with answering(servable(tmp_path / "model", "/v1/rerank", recipe="reranker", max_length=128)) as client:
        told = ask(client, "/v1/rerank", query="chips", documents=["a chip", "goals"])
        long = refused(client, "/v1/rerank", query="chips", documents=["a" * 128])

    scores = {item["index"]: item["relevance_score"] for item in told["results"]}
    expected = reranker.load(tmp_path / "model").predict([("chips", "a chip"), ("chips", "goals")])
    assert [scores[0], scores[1]] == pytest.approx(expected.tolist(), abs=1e-6)
    read = [len(reranker.PROMPT.format(query="chips", document=text)) for text in ("a chip", "goals")]
    assert told["usage"]["prompt_tokens"] == sum(read)
    assert long == (422, "input-refused", "documents")


def test_rewards_are_logits_behind_the_prompt_as_training_read_it(tmp_path: Path) -> None:
    """An empty query reads the answer alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    decoder = make_chat(tmp_path / "decoder")
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(decoder, num_labels=1).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def reward(ids: Any) -> float:
        with torch.inference_mode():
            return float(model(input_ids=torch.tensor([ids])).logits)

    turns = [
        [{"role": "user", "content": "why?"}, {"role": "assistant", "content": said}] for said in ("so", "because")
    ]
    asked = [tokenizer.apply_chat_template(turn, tokenize=True, return_dict=True)["input_ids"] for turn in turns]
    with answering(servable(tmp_path / "model", "/v1/rerank", recipe="reward-modeling", max_length=64)) as client:
        told = ask(client, "/v1/rerank", query="why?", documents=["so", "because"])
        alone = ask(client, "/v1/rerank", query="", documents=["so"])

    scores = {item["index"]: item["relevance_score"] for item in told["results"]}
    assert [scores[0], scores[1]] == pytest.approx([reward(ids) for ids in asked], abs=1e-5)
    assert told["usage"]["prompt_tokens"] == sum(map(len, asked))
    ended = tokenizer("so" + tokenizer.eos_token)["input_ids"]
    assert alone["results"][0]["relevance_score"] == pytest.approx(reward(ended), abs=1e-5)


# --- chat -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = make_chat(tmp_path_factory.mktemp("talks") / "model")
    limits = Limits(max_new_tokens=24, batching=Batching(max_batch=8, max_wait_s=0.1))
    with answering(servable(folder, "/v1/chat/completions"), limits) as client:
        client.folder = folder
        yield client


def plain_answer(folder: Path, text: str, tokens: int) -> str:
    """What transformers says by itself, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return str(tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))


def test_a_greedy_answer_is_that_of_the_library_alone_and_in_company(talks: Any) -> None:
    texts = ["say w1", "what of the chip and the goal today", "stock"]

    def say(text: str) -> Any:
        return ask(
            talks, "/v1/chat/completions", messages=[{"role": "user", "content": text}], temperature=0, max_tokens=8
        )

    alone = [say(text)["choices"][0]["message"]["content"] for text in texts]
    with ThreadPoolExecutor(3) as pool:
        together = [told["choices"][0]["message"]["content"] for told in pool.map(say, texts)]

    assert alone == together == [plain_answer(talks.folder, text, 8) for text in texts]


def test_an_answer_says_why_it_ended_and_what_it_cost(talks: Any) -> None:
    messages = [{"role": "user", "content": "say w1"}]
    told = ask(talks, "/v1/chat/completions", messages=messages, temperature=0, max_completion_tokens=3)

    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"]["completion_tokens"] == 3
    assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + 3
    assert told["choices"][0]["message"]["role"] == "assistant"


def test_a_streamed_answer_is_the_whole_answer_in_pieces(talks: Any) -> None:
    body = {"messages": [{"role": "user", "content": "say w1"}], "temperature": 0, "max_tokens": 6}
    whole = ask(talks, "/v1/chat/completions", **body)

    with talks.stream("POST", "/v1/chat/completions", json={
        "model": NAME, **body, "stream": True, "stream_options": {"include_usage": True}
    }) as reply:  # fmt: skip
        lines = [line for line in reply.iter_lines() if line]
        kind = reply.headers["content-type"]

    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    said = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert (kind.split(";")[0], lines[-1]) == ("text/event-stream", "data: [DONE]")
    assert said == whole["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert len([chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]) > 1


def test_the_openai_client_talks_and_streams(talks: Any) -> None:
    client = openai_client(talks)
    asked: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "say w1"}], "temperature": 0,
                             "max_tokens": 5}  # fmt: skip

    whole = client.chat.completions.create(**asked)
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]

    assert "".join(pieces) == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "length"


def test_a_seed_makes_the_same_answer_twice_whoever_else_asks(talks: Any) -> None:
    body = {"messages": [{"role": "user", "content": "say w1"}], "temperature": 1.5, "max_tokens": 8}

    def say(seed: int | None) -> str:
        told = ask(talks, "/v1/chat/completions", **body, seed=seed)
        return str(told["choices"][0]["message"]["content"])

    alone = say(7)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(say, [7, None, None, 8]))

    assert together[0] == alone
    assert together[3] != alone


def test_a_stop_sequence_ends_an_answer_before_it(talks: Any) -> None:
    body = {"messages": [{"role": "user", "content": "say w1"}], "temperature": 0, "max_tokens": 8}
    whole = ask(talks, "/v1/chat/completions", **body)["choices"][0]["message"]["content"]
    stop = whole[len(whole) // 2 :][:2]

    told = ask(talks, "/v1/chat/completions", **body, stop=[stop])["choices"][0]

    assert told["finish_reason"] == "stop"
    assert told["message"]["content"] == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "w1 " * 400}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}], "max_tokens": 25}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "a"}], "n": 2}, "n"),
        ({"messages": [{"role": "user", "content": "a"}], "logprobs": True}, "logprobs"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "messages"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_chat_does_not_honour_is_refused(talks: Any, body: dict[str, Any], param: str) -> None:
    status, _, named = refused(talks, "/v1/chat/completions", **body)

    assert (status, named) == (422, param)


def test_a_listener_who_hangs_up_stops_the_model(talks: Any) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "say w1"}], "max_tokens": 24, "stream": True}
    with talks.stream("POST", "/v1/chat/completions", json=body) as reply:
        next(reply.iter_lines())

    told = ask(talks, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}], temperature=0, max_tokens=1)
    assert told["usage"]["completion_tokens"] == 1
    assert talks.serving.batcher.waiting == 0
