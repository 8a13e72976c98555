"""dspy's BestOfN on a server: ``drive_dspy.py URL MODEL PROBLEMS.json``, where each problem is [text, right answer]."""

import json
import sys
from pathlib import Path

import dspy


class Bare(dspy.Adapter):
    """The question as the one message, and the text of the answer line: what the model was trained on."""

    def format(self, signature, demos, inputs):
        return [{"role": "user", "content": inputs["question"]}]

    def parse(self, signature, completion):
        return {"answer": completion.rpartition("answer: ")[2].strip()}


def main(url, model, problems):
    lm = dspy.LM(f"openai/{model}", api_base=url, api_key="none", cache=False, max_tokens=200, num_retries=0)
    dspy.configure(lm=lm, adapter=Bare())
    found = []
    for problem, right in json.loads(Path(problems).read_text()):
        calls = []

        def reward(arguments, prediction, right=right, calls=calls):
            calls.append(prediction.answer)
            return float(prediction.answer == right)

        best = dspy.BestOfN(dspy.Predict("question -> answer"), N=6, reward_fn=reward, threshold=1.0)
        found.append({"answer": best(question=problem).answer, "calls": calls})
    print(json.dumps(found))


main(*sys.argv[1:])
