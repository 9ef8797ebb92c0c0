"""TRL's GRPO trainer for bench.peer_trl, which starts this file with the Python of TRL's own environment.

    python bench/trl_worker.py JOB.json

Imports nothing of ours. It trains on the job's one prompt and its fixed completions and rewards; before each step it
waits for a line on stdin, after each it prints one line of JSON behind the mark "@@".
"""

from __future__ import annotations

import json
import sys
import time

import datasets
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

JOB = json.loads(open(sys.argv[1]).read())


def tell(**numbers) -> None:
    print("@@" + json.dumps(numbers), flush=True)


def fixed_rollouts(prompts: list, trainer: GRPOTrainer) -> dict:
    """The job's tokens, whatever the prompt: TRL's own hook in the place of generation."""
    sys.stdin.readline()
    trainer.begin = time.perf_counter()
    return {
        "prompt_ids": [JOB["prompt_ids"]] * len(prompts),
        "completion_ids": JOB["completions"],
        "logprobs": None,
    }


def fixed_rewards(completions: list, **_) -> list[float]:
    return JOB["rewards"]


class TimedTrainer(GRPOTrainer):
    """Tells each step's loss, gradient norm and seconds; `prepared` is what preparing the batch took of them."""

    begin = prepared = prepared_cpu = 0.0

    def _prepare_inputs(self, batch):
        cpu = time.process_time()
        inputs = super()._prepare_inputs(batch)
        self.prepared, self.prepared_cpu = time.perf_counter() - self.begin, time.process_time() - cpu
        return inputs

    def training_step(self, *args, **kwargs):
        cpu = time.process_time()
        loss = super().training_step(*args, **kwargs)
        self.ended = time.perf_counter()
        self.update_cpu = time.process_time() - cpu - self.prepared_cpu
        return loss

    def log(self, logs, *args, **kwargs):
        if "grad_norm" in logs:
            tell(
                loss=logs["loss"],
                grad_norm=logs["grad_norm"],
                kl=self._metrics["train"]["kl"][-1],
                prepare_seconds=self.prepared,
                update_seconds=self.ended - self.begin - self.prepared,
                update_cpu_seconds=self.update_cpu,
                step_seconds=time.perf_counter() - self.begin,
            )
        super().log(logs, *args, **kwargs)


def main() -> None:
    torch.set_num_threads(JOB["threads"])
    model = Qwen3VLForConditionalGeneration.from_pretrained(JOB["model"], dtype=torch.float32, use_safetensors=True)
    visual = model.model.visual
    for module in (visual.patch_embed, visual.pos_embed, visual.blocks):
        module.requires_grad_(False)
    part = {"type": "text", "text": JOB["text"]}
    row = {"prompt": [{"role": "user", "content": [part]}]}
    if JOB["image"]:
        row = {"prompt": [{"role": "user", "content": [{"type": "image"}, part]}], "image": Image.open(JOB["image"])}
    rollouts = len(JOB["completions"])
    trainer = TimedTrainer(
        model=model,
        reward_funcs=fixed_rewards,
        rollout_func=fixed_rollouts,
        processing_class=AutoProcessor.from_pretrained(JOB["model"], trust_remote_code=False),
        train_dataset=datasets.Dataset.from_list([row]),
        args=GRPOConfig(
            output_dir=JOB["folder"],
            per_device_train_batch_size=rollouts,
            num_generations=rollouts,
            gradient_accumulation_steps=1,
            max_completion_length=max(map(len, JOB["completions"])),
            max_steps=JOB["steps"],
            num_train_epochs=JOB["steps"],
            learning_rate=JOB["lr"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            adam_epsilon=JOB["adam_epsilon"],
            max_grad_norm=1.0,
            beta=JOB["kl_coef"],
            use_bias_correction_kl=False,  # TRL's default weighs the KL term by the ratio: another gradient
            epsilon=JOB["clip_eps"],
            loss_type="grpo",
            temperature=1.0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    tell(ready=True)
    trainer.train()


if __name__ == "__main__":
    main()
