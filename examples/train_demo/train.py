"""Trains the demo model by flow matching, from single frames to full videos; resumable, and exact to the bit when resumed.

Everything random is a function of (seed, step): data, noise, noise levels and dropped captions. So a checkpoint holds only
weights, their moving average, optimizer states and the step, and the plan may be edited between two runs.
Run: python train.py --out RUN_FOLDER [--plan plan.json] [--export FOLDER]
"""
import argparse
import csv
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import data
from model import DemoModel, load_folder, save_folder
from muon import Muon

HELD_OUT_SEED = 977
CLEAR = 0.15  # noise level up to which a frame counts as clear
HELD_OUT_VIDEOS = 8
HELD_OUT_LAG = 0.1


def _per_pixel(levels):
    return levels.reshape(len(levels), 1, -1, 1, 1)


def noised(video, sigma, noise):
    """(1 - sigma) video + sigma noise; sigma [B] or, per frame, [B, T]."""
    s = _per_pixel(sigma)
    return (1 - s) * video + s * noise


def flow_matching_loss(model, video, sigma, noise, ids):
    """Mean squared error of the velocity noise - video at x = (1 - sigma) video + sigma noise; sigma [B] or, per frame, [B, T].

    Per frame, those that are clear or nothing but noise do not count: a sampler does not move them."""
    error = (model(noised(video, sigma, noise), sigma, ids) - (noise - video)) ** 2
    if sigma.ndim == 1:
        return error.mean()
    counts = _per_pixel((sigma > CLEAR) & (sigma < 1)).expand_as(error)
    return (error * counts).sum() / counts.sum().clamp(min=1)


def shifted(u, shift):
    return shift * u / (1 + (shift - 1) * u)


def rolling_levels(progress, frames, lag, shift):
    """Noise levels [N, T] of frames [N, T] when a sampler has done the share `progress` [N] of its way: the first frame is given, each
    later one is `lag` [N] (a share of the way from noise to clear, per frame number) behind the one before it."""
    behind = lag[:, None] * (frames - frames[:, 1:2])
    done = progress[:, None] * (1 + behind[:, -1:]) - behind
    sigma = shifted((1 - done).clamp(0, 1), shift)
    sigma[:, 0] = 0
    return sigma


def held_out_progress(videos):
    """How far a sampler is on its way in each held-out batch, float32 [videos]."""
    return (torch.arange(videos) + 0.5) / videos


def held_out_batches(length=data.FRAMES, videos=HELD_OUT_VIDEOS):
    """Batches of one unseen video each, with fixed captions and noise, at evenly spread points of a sampler's way (shift 3; frames of a
    video HELD_OUT_LAG apart): (video, places, sigma, noise, word ids)."""
    for i, at in enumerate(held_out_progress(videos).split(1)):
        video, places, captions = data.batch(HELD_OUT_SEED, i, 1, length)
        noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(HELD_OUT_SEED + i))
        sigma = shifted(1 - at, 3.0) if length == 1 else rolling_levels(at, places[0], torch.tensor([HELD_OUT_LAG]), 3.0)
        yield video, places, sigma, noise, torch.tensor([data.tokenize(captions[0])])


class Trainer:
    def __init__(self, plan, config=None):
        self.plan = plan
        cuda = plan["device"] == "auto" and torch.cuda.is_available()
        self.device = "cuda" if cuda else "cpu" if plan["device"] == "auto" else plan["device"]
        self.model = DemoModel(config).initialise(plan["seed"]).to(self.device)
        self.model.autocast = self.device == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        matrices = [p for p in self.model.transformer.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        decay = plan["weight_decay"]
        self.optimizers = [
            Muon(matrices, lr=plan["matrix_lr"], weight_decay=decay),
            torch.optim.AdamW(others, lr=plan["other_lr"], betas=(0.9, 0.98), weight_decay=0.0)]
        self.base_rates = [plan["matrix_lr"], plan["other_lr"]]
        if plan["compile"]:  # block by block: they share one compilation
            torch._dynamo.config.recompile_limit = 64  # kinds of batches
            for block in self.model.transformer.blocks:
                block.compile(dynamic=False)
        self.step = self.samples = 0
        self.minutes = 0.0
        self.drawer, self.ahead = ThreadPoolExecutor(1), None

    def total_steps(self):
        return sum(s["steps"] for s in self.plan["stages"])

    def stage(self, step=None):
        """The stage of a step (default: the current one), or None at the end. A stage may hold a cycle of batches (frames, batch, shift)."""
        first, step = 0, self.step if step is None else step
        for stage in self.plan["stages"]:
            first += stage["steps"]
            if step < first:
                return stage
        return None

    def first_step(self, stage):
        stages = self.plan["stages"]
        return sum(s["steps"] for s in stages[:stages.index(stage)])

    def rate(self):
        """Learning rate factor: linear warm-up, the stage's constant, linear decay to 2 %."""
        up = min(1.0, (self.step + 1) / self.plan["warmup_steps"])
        down = min(1.0, (self.total_steps() - self.step) / self.plan["decay_steps"])
        return up * max(0.02, down) * self.stage().get("rate", 1.0)

    def draw(self, kind, step, samples):
        """The batch of a step, whose first video is number `samples`: video, token places, sigma, noise, word ids."""
        count = kind["batch"]
        view = {key: kind[key] for key in ("thin", "objects", "stride", "turning") if key in kind} | {"from_first": kind.get("from_first", "lag" in kind)}
        video, places, captions = data.batch(self.plan["seed"], samples, count, kind["frames"], **view)
        rng = torch.Generator().manual_seed(self.plan["seed"] * 1_000_003 + step)
        noise = torch.randn(video.shape, generator=rng)
        # Even noise levels: one per equal slice in a batch, and between batches a golden-ratio sequence, so the loss is less noisy.
        u = (torch.randperm(count, generator=rng) + (step * 0.6180339887) % 1) / count
        sigma = shifted(u, kind["shift"])
        if "lag" in kind:
            low, high = kind["lag"]
            lag = (low + (high - low) * torch.rand(count, generator=rng)) * (torch.rand(count, generator=rng) >= kind.get("together", 0))
            sigma = rolling_levels(u, places[0], lag, kind["shift"])
            # Half of the videos have clear frames with a little noise: those that a sampler made are not perfect either.
            unclean = torch.rand(count, 1, generator=rng) < 0.5
            sigma = torch.maximum(sigma, CLEAR * torch.rand(sigma.shape, generator=rng) * unclean)
        drop = torch.rand(count, generator=rng) < self.plan["null_caption"]
        ids = torch.tensor([data.tokenize("" if d else c) for c, d in zip(captions, drop)])
        to = lambda t: t.to(self.device)
        return to(video), tuple(map(to, places)), to(sigma), to(noise), to(ids)

    def kind(self, step):
        """The kind of batch of a step: its stage itself, or the entry of the stage's cycle whose turn it is. None at the end."""
        stage = self.stage(step)
        return stage["cycle"][step % len(stage["cycle"])] if stage and "cycle" in stage else stage

    def fetch(self, kind):
        """The batch of the current step; that of the next step is drawn in the background from now on."""
        key = (self.step, self.samples)
        batch = self.ahead[1].result() if self.ahead and self.ahead[0] == key else self.draw(kind, *key)
        following, key = self.kind(self.step + 1), (self.step + 1, self.samples + kind["batch"])
        self.ahead = (key, self.drawer.submit(self.draw, following, *key)) if following else None
        return batch

    def advance(self):
        """One optimizer step; returns the loss."""
        stage = self.stage()
        kind = self.kind(self.step)
        if stage.get("from_average") and self.step == self.first_step(stage):
            self.model.load_state_dict(self.average)
        video, places, sigma, noise, ids = self.fetch(kind)
        for optimizer, base in zip(self.optimizers, self.base_rates):
            for group in optimizer.param_groups:
                group["lr"] = base * self.rate()
        self.model.set_places(places)
        loss = flow_matching_loss(self.model, video, sigma, noise, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        keep = min(self.plan["ema"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        self.step += 1
        self.samples += kind["batch"]
        if not torch.isfinite(loss):
            raise FloatingPointError(f"[train] the loss of step {self.step} is {float(loss.detach())}; the last checkpoint is from before")
        return float(loss.detach())

    @torch.no_grad()
    def held_out(self, length=data.FRAMES, videos=HELD_OUT_VIDEOS):
        """Loss of the averaged weights on the held-out batches."""
        current = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        total = 0.0
        for video, places, sigma, noise, ids in held_out_batches(length, videos):
            self.model.set_places(tuple(p.to(self.device) for p in places))
            total += float(flow_matching_loss(self.model, *(t.to(self.device) for t in (video, sigma, noise, ids))))
        self.model.load_state_dict(current)
        return total / videos

    def save(self, path):
        """Checkpoint, written beside its place and moved there, so that it is whole at any moment."""
        state = {"model": self.model.state_dict(), "average": self.average, "step": self.step, "samples": self.samples,
                 "minutes": self.minutes, "optimizers": [o.state_dict() for o in self.optimizers]}
        torch.save(state, f"{path}.part")
        os.replace(f"{path}.part", path)

    def load(self, path):
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.samples, self.minutes = state["step"], state["samples"], state["minutes"]

    def start_from(self, folder):
        """Begins with the weights of an exported folder instead of random ones; optimizers and step start afresh.
        ValueError when the folder sums the words of captions in other groups than training does."""
        first = load_folder(folder)
        if first.captions.groups != self.model.captions.groups:
            raise ValueError(f"[train] {folder}: captions in groups {self.model.captions.groups} expected, got {first.captions.groups}")
        self.model.load_state_dict(first.state_dict())
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def export(self, folder):
        """Writes the averaged weights as a diffusers-style folder."""
        part = lambda prefix: {k[len(prefix):]: v.cpu() for k, v in self.average.items() if k.startswith(prefix)}
        save_folder(folder, part("transformer."), part("captions."))


class Log:
    """loss.csv of a run: one row per evaluation, appended; rows past a resumed step are dropped."""
    columns = ("step", "samples", "minutes", "frames", "train_loss", "held_out_loss")

    def __init__(self, path, step):
        self.path = Path(path)
        rows = list(csv.reader(self.path.open())) if self.path.exists() else [self.columns]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows(rows[:1] + [r for r in rows[1:] if int(r[0]) <= step])

    def add(self, *row):
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def run(trainer, out, export, first=None):
    plan, checkpoint = trainer.plan, out / "checkpoint.pt"
    if first and not checkpoint.exists():
        trainer.start_from(first)
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step}", flush=True)
    log, stop, recent = Log(out / "loss.csv", trainer.step), [], []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(True))
    last = evaluated = saved = time.time()
    while (stage := trainer.stage()) and not stop:
        recent.append(trainer.advance())
        now = time.time()
        # A pause (stopped process, sleeping machine) is not training time.
        trainer.minutes += min(now - last, 120) / 60
        last = now
        finished = trainer.stage() is not stage
        if trainer.step % 20 == 0:
            mean = sum(recent[-20:]) / len(recent[-20:])
            print(f"step {trainer.step}/{trainer.total_steps()} loss {mean:.4f} "
                  f"{trainer.minutes:.1f} min", flush=True)
        if finished or now - evaluated > 60 * plan["evaluate_minutes"]:
            held_out = trainer.held_out()
            frames = max(k["frames"] for k in stage.get("cycle", [stage]))
            log.add(trainer.step, trainer.samples, round(trainer.minutes, 2), frames,
                    round(sum(recent) / len(recent), 5), round(held_out, 5))
            print(f"step {trainer.step} held-out loss {held_out:.4f}", flush=True)
            recent, evaluated = [], time.time()
        if finished or now - saved > 60 * plan["checkpoint_minutes"]:
            trainer.save(checkpoint)
            saved = time.time()
            if export:
                trainer.export(export)
    trainer.save(checkpoint)
    if export:
        trainer.export(export)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoint.pt, loss.csv")
    parser.add_argument("--plan", type=Path, default=Path(__file__).with_name("plan.json"))
    parser.add_argument("--export", type=Path, help="also write the averaged weights here at every checkpoint")
    parser.add_argument("--init", type=Path, help="begin with the weights of this exported folder")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    torch.set_flush_denormal(True)  # before any thread starts: they inherit it
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    run(Trainer(json.loads(args.plan.read_text())), args.out, args.export, args.init)


if __name__ == "__main__":
    main()
