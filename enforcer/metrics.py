"""The metrics that a profile may name: what each says, and whether more of it is better.

A name outside of this list is refused, so that two task types that name a metric mean the same by it, and no gate waits
for a misspelt one. That a name stands here does not say that a recipe measures it yet: a gate without a score does not
pass. `@k` looks at the first k results of each query.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """`higher`: whether more is better."""

    says: str
    higher: bool = True


METRICS = {
    "accuracy": Metric("share of rows given their label"),
    "macro_f1": Metric("F1, averaged over the labels"),
    "micro_f1": Metric("F1 over all decisions"),
    "precision": Metric("share of the rows given a label that have it, averaged over the labels"),
    "recall": Metric("share of the rows that have a label and are given it, averaged over the labels"),
    "mae": Metric("mean distance of predicted and given scores", higher=False),
    "rmse": Metric("root of the mean squared distance of predicted and given scores", higher=False),
    "r2": Metric("share of the variance of the given scores that the predicted ones explain"),
    "spearman": Metric("rank correlation of predicted and given scores"),
    "map": Metric("mean average precision over the queries"),
    "mrr@10": Metric("mean reciprocal rank of the first right document"),
    "ndcg@10": Metric("normalised discounted cumulative gain"),
    "recall@10": Metric("share of the right documents among the first ten"),
    "eval_loss": Metric(
        "mean loss on held-out rows, the task type's own; in nats a token where tokens are taught", higher=False
    ),
    "perplexity": Metric("exp of the mean loss on held-out tokens", higher=False),
    "token_accuracy": Metric("share of held-out tokens that are the most likely ones"),
    "reward_accuracy": Metric("share of held-out pairs whose chosen answer is rewarded more"),
    "reward_margin": Metric("mean reward of the chosen answer over the rejected one"),
    "win_rate": Metric("share of prompts on which a judge prefers the model's answer, both orders asked"),
    "elo": Metric("points on the Elo scale, a reference model being pinned at 1000"),
    "mean_reward": Metric("mean reward of sampled answers"),
    "distillation_loss": Metric("divergence from the teacher on held-out rows, in nats a token", higher=False),
    "execution_accuracy": Metric("share of queries whose rows are those of the right query"),
    "valid_sql": Metric("share of queries that the database runs"),
    "tool_call_accuracy": Metric("share of tool calls that match in name and arguments"),
    "malformed_calls": Metric("share of tool calls that do not parse or fit no schema", higher=False),
}
