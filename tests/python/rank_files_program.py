"""Run by test_rank_files.py under torchrun: two processes hold the halves of a tensor-parallel feed-forward, export them and read them back.
Usage: rank_files_program.py FOLDER; writes FOLDER/rank{r}.json."""
import json
import sys
from pathlib import Path

import aerogel
import torch
import torch.distributed as dist
from torch import nn

IN, HIDDEN = 32, 48
X = torch.randn(40, IN, generator=torch.Generator().manual_seed(5))


class FeedForward(nn.Module):
    """The columns of `up` and the rows of `down` that belong to one rank (Megatron-LM, arXiv 1909.08053); their outputs add up."""

    def __init__(self, rank, world):
        super().__init__()
        torch.manual_seed(3)
        up, down = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, IN, bias=False)
        mine = slice(rank * HIDDEN // world, (rank + 1) * HIDDEN // world)
        self.blocks = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(IN, HIDDEN // world), "down": nn.Linear(HIDDEN // world, IN, bias=False)})])
        with torch.no_grad():
            self.blocks[0]["up"].weight.copy_(up.weight[mine])
            self.blocks[0]["up"].bias.copy_(up.bias[mine])
            self.blocks[0]["down"].weight.copy_(down.weight[:, mine])

    def forward(self, x):
        block = self.blocks[0]
        return block["down"](torch.nn.functional.gelu(block["up"](x)))


def summed(y):
    y = y.detach().clone()
    dist.all_reduce(y)
    return y


def own_files(folder, rank, world, results):
    shard, exact = FeedForward(rank, world), FeedForward(0, 1)(X).detach()
    calibration = aerogel.calibrate(shard, lambda: shard(X))
    for scheme in ("W8A8_DYNAMIC", "W8A8"):
        report = aerogel.export(shard, folder / scheme, scheme, calibration=calibration if scheme == "W8A8" else None)
        results[f"{scheme} written"] = [Path(report.description).name, Path(report.weights).name]
        dist.barrier()
        # By the folder, and by another rank's file: every process takes its own.
        first = folder / scheme / f"quant_model_description_{scheme.lower()}_0.json"
        for how, path in (("folder", folder / scheme), ("path", first)):
            model = FeedForward(rank, world)
            aerogel.quantize(model, path)
            results[f"{scheme} {how}"] = aerogel.compare(exact, summed(model(X))).relative_l2
            results[f"{scheme} {how} weight"] = aerogel.compare(shard.blocks[0]["up"].weight, model.blocks[0]["up"].dequantized()).relative_l2
        results[f"{scheme} inspected"] = Path(aerogel.inspect(folder / scheme)["weights"]).name


def shared_files(folder, rank, results):
    """Replicated layers (sequence parallelism) need one pair for all."""
    if rank == 0:
        aerogel.export(FeedForward(0, 1), folder / "shared", rank=-1)
    dist.barrier()
    model = FeedForward(0, 1)
    aerogel.quantize(model, folder / "shared")
    results["shared"] = sorted(p.name for p in (folder / "shared").iterdir())


def message(path, rank, world):
    try:
        aerogel.quantize(FeedForward(rank, world), path)
    except OSError as error:
        return str(error)
    return "no error"


def missing_files(folder, rank, world, results):
    place = folder / "W8A8"
    if rank == 1:
        (place / "quant_model_weight_w8a8_1.safetensors").unlink()
        results["no weights"] = message(place, rank, world)
        (place / "quant_model_description_w8a8_1.json").unlink()
        results["no description"] = message(place, rank, world)
        results["no description by path"] = message(place / "quant_model_description_w8a8_0.json", rank, world)


def main(folder):
    dist.init_process_group("gloo")
    rank, world, results = dist.get_rank(), dist.get_world_size(), {}
    own_files(folder, rank, world, results)
    shared_files(folder, rank, results)
    dist.barrier()
    missing_files(folder, rank, world, results)
    (folder / f"rank{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
