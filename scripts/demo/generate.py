"""Answers of a model to questions about pictures, in batches, on CPU or GPU."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor


class Answerer:
    """A checkpoint with its processor, ready to answer.

    Prompts are rendered with the checkpoint's chat template, which for our checkpoints gives the very tokens that
    LlamaFactory's template `qwen2_vl` trains on (tests/test_demo.py compares the two).
    """

    def __init__(self, model_dir: str | os.PathLike, batch_size: int = 192):
        """Load a Qwen2-VL checkpoint (FileNotFoundError: `model_dir` holds no config.json)."""
        if not (Path(model_dir) / "config.json").is_file():
            raise FileNotFoundError(f"{model_dir} is not a checkpoint: it has no config.json.")
        safely = {"trust_remote_code": False}
        self.processor = AutoProcessor.from_pretrained(model_dir, use_fast=True, **safely)
        self.processor.tokenizer.padding_side = "left"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype=torch.float32, **safely)
        self.model = model.to(self.device).eval()
        self.batch_size = batch_size

    def prompt(self, text: str) -> str:
        """The prompt of one question, with the place of the image, up to where the answer begins."""
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    @torch.inference_mode()
    def answers(
        self,
        items: Sequence[tuple[str, Image.Image]],
        samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 64,
    ) -> list[list[str]]:
        """Answer questions.

        Args:
            items: (question, image) pairs.
            samples: answers wanted for each question.
            temperature: 0 is greedy; above, answers are sampled with torch's global generator.
            max_new_tokens: longest answer in tokens.

        Returns:
            `samples` answers for each item, in the order of `items`.
        """
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        results: list[list[str]] = [[] for _ in items]
        # Questions of one length in one batch need next to no padding.
        order = sorted(range(len(items)), key=lambda index: len(items[index][0]))
        step = max(1, self.batch_size // samples)
        with tqdm(total=len(items), desc="answers", unit="question") as bar:
            for start in range(0, len(order), step):
                batch = order[start : start + step]
                inputs = self._encode([self.prompt(items[i][0]) for i in batch], [items[i][1] for i in batch])
                output = self.model.generate(
                    **inputs, **sampling, num_return_sequences=samples, max_new_tokens=max_new_tokens
                )
                new = output[:, inputs["input_ids"].shape[1] :]
                texts = self.processor.batch_decode(new, skip_special_tokens=True)
                for row, index in enumerate(batch):
                    results[index] = texts[row * samples : (row + 1) * samples]
                bar.update(len(batch))
        return results

    @torch.inference_mode()
    def mean_logps(self, items: Sequence[tuple[str, Image.Image, str]]) -> list[float]:
        """Mean log-probability of an answer's tokens, its end included.

        Args:
            items: (question, image, answer) triples.

        Returns:
            One number an item, in nats a token: what the preference losses call the length-normalised logps.
        """
        logps = []
        for start in tqdm(range(0, len(items), self.batch_size), "log-probs", unit="batch"):
            batch = items[start : start + self.batch_size]
            ends = [answer + self.processor.tokenizer.eos_token for _, _, answer in batch]
            texts = [self.prompt(text) + end for (text, _, _), end in zip(batch, ends, strict=True)]
            inputs = self._encode(texts, [image for _, image, _ in batch])
            scores = self.model(**inputs).logits[:, :-1].log_softmax(-1)
            scores = scores.gather(-1, inputs["input_ids"][:, 1:, None]).squeeze(-1)
            lengths = [len(ids) for ids in self.processor.tokenizer(ends)["input_ids"]]
            logps += [row[-length:].mean().item() for row, length in zip(scores, lengths, strict=True)]
        return logps

    def _encode(self, texts: list[str], images: list[Image.Image]):
        return self.processor(text=texts, images=images, padding=True, return_tensors="pt").to(self.device)
