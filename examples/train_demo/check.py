"""Measures whether generated videos obey their captions, by image processing alone (no model is involved).

Pixels are sorted by hue into the six colours; each captioned colour gives one object, whose centre, area and outline are
followed through the frames. The outline is compared with rotated templates (shape, turning angle), the centre gives the
direction: that of the first frames, because objects may bounce later. A caption is obeyed when every object has the right
colour, shape and motion and no further colour is present.
Run: python check.py FOLDER [--captions FILE] [--json]    (video_*.safetensors or folders of PNGs, in order of name)
     python check.py --truth 200                          (the checker on rendered videos: an upper limit)
"""
import argparse
import colorsys
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

import data

EARLY = 5           # frames that tell the direction
LEAST_MOVE = 4.0    # pixels in these frames
LEAST_TURN = 60.0   # degrees in the whole video
LEAST_AREA = 60.0   # pixels
SYMMETRY = {"circle": 360, "square": 90, "triangle": 120, "star": 72}
ANGLE_STEP = 4
HUES = {name: colorsys.rgb_to_hsv(*rgb)[0] for name, rgb in data.COLOURS.items()}
CHROMA = {name: max(rgb) - min(rgb) for name, rgb in data.COLOURS.items()}


def read_video(path):
    """A safetensors file (one tensor [T,H,W,3] or [3,T,H,W]; uint8, or float in [-1,1]) or a folder of PNGs -> [T,H,W,3] in [0,1]."""
    path = Path(path)
    if path.is_dir():
        return np.stack([np.asarray(Image.open(p).convert("RGB")) for p in sorted(path.glob("*.png"))]) / 255.0
    tensors = load_file(path)
    if len(tensors) != 1:
        raise ValueError(f"[check] one tensor expected in {path}, got {sorted(tensors)}")
    return as_frames(next(iter(tensors.values())))


def as_frames(video):
    """[T,H,W,3] or [3,T,H,W] (a leading 1 is dropped), uint8 or float in [-1, 1] -> float64 [T,H,W,3] in [0, 1]."""
    video = np.asarray(video)
    video = video[0] if video.ndim == 5 else video
    if video.ndim != 4 or 3 not in (video.shape[0], video.shape[-1]):
        raise ValueError(f"[check] a video is [T,H,W,3] or [3,T,H,W], got {list(video.shape)}")
    if video.shape[-1] != 3:
        video = video.transpose(1, 2, 3, 0)
    return video / 255.0 if video.dtype == np.uint8 else np.clip(video.astype(np.float64) / 2 + 0.5, 0, 1)


def colour_masks(video):
    """[T,H,W,3] -> {colour: soft coverage [T,H,W]}: chroma relative to the palette, at pixels whose hue is nearest."""
    high, low = video.max(-1), video.min(-1)
    chroma = high - low
    safe = np.where(chroma > 1e-6, chroma, 1)
    r, g, b = np.moveaxis((video - low[..., None]) / safe[..., None], -1, 0)
    hue = np.where(high == video[..., 0], g - b, np.where(high == video[..., 1], b - r + 2, r - g + 4)) / 6 % 1
    distance = np.stack([np.abs((hue - h + 0.5) % 1 - 0.5) for h in HUES.values()])
    nearest = distance.argmin(0)
    masks = {}
    for i, name in enumerate(HUES):
        cover = np.clip((chroma / CHROMA[name] - 0.25) / 0.6, 0, 1)
        masks[name] = np.where((nearest == i) & (cover > 0), cover, 0)
    return masks


def centre_of(mask):
    """Soft mask [H,W] -> (x, y) in pixels and area."""
    area = mask.sum()
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    return np.array([(columns * mask).sum(), (rows * mask).sum()]) / max(area, 1e-9), area


@cache
def _template(shape):
    """Area and centroid of a shape of radius 1, from a fine grid."""
    grid = (torch.arange(480) + 0.5) / 200 - 1.2
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    inside = data.signed_distance(shape, x, y, 1.0) < 0
    return float(inside.sum()) / 200**2, float(x[inside].mean()), float(y[inside].mean())


def match(mask, shape):
    """Best overlap (soft intersection over union) of the mask with the shape of the same area and centroid, and its angle."""
    (cx, cy), area = centre_of(mask)
    unit_area, tx, ty = _template(shape)
    radius = float(np.sqrt(area / unit_area))
    half = int(np.ceil(1.15 * radius)) + 2
    y0, x0 = max(int(cy) - half, 0), max(int(cx) - half, 0)
    seen = torch.from_numpy(mask[y0:int(cy) + half + 1, x0:int(cx) + half + 1]).float()
    y, x = torch.meshgrid(torch.arange(seen.shape[0]) + y0 + 0.5 - cy, torch.arange(seen.shape[1]) + x0 + 0.5 - cx, indexing="ij")
    angles = torch.arange(0, SYMMETRY[shape], ANGLE_STEP).float()
    cos, sin = (f(torch.deg2rad(angles))[:, None, None] for f in (torch.cos, torch.sin))
    u, v = cos * x + sin * y + tx * radius, cos * y - sin * x + ty * radius
    drawn = (0.5 - data.signed_distance(shape, u.float(), v.float(), radius)).clamp(0, 1)
    overlap = torch.minimum(drawn, seen).sum((1, 2)) / torch.maximum(drawn, seen).sum((1, 2))
    best = int(overlap.argmax())
    return float(overlap[best]), float(angles[best])


def describe(masks):
    """Soft masks [T,H,W] of one object -> {"shape", "motion", "overlap", "move", "turn"}, or None when it is not there."""
    tracks = [centre_of(m) for m in masks]
    present = [t for t, (_, area) in enumerate(tracks) if area > LEAST_AREA]
    if len(present) < 0.85 * len(masks) or 0 not in present:
        return None
    shown = present[:: max(1, len(present) // 4)]
    scores = {s: float(np.mean([match(masks[t], s)[0] for t in shown])) for s in data.SHAPES}
    shape = max(scores, key=scores.get)
    early = [t for t in present if t <= EARLY][-1]
    move = (tracks[early][0] - tracks[0][0]) * EARLY / max(early, 1)
    angles = np.array([match(masks[t], shape)[1] for t in present])
    period = SYMMETRY[shape]
    turn = float(((np.diff(angles) + period / 2) % period - period / 2).sum())
    return {"shape": shape, "motion": _motion(move, turn), "overlap": round(scores[shape], 3),
            "move": [round(float(x), 1) for x in move], "turn": round(turn, 1)}


def _motion(move, turn):
    axis = int(np.argmax(np.abs(move)))
    if abs(move[axis]) >= LEAST_MOVE and abs(move[1 - axis]) < 0.5 * abs(move[axis]):
        return (("moves left", "moves right"), ("moves up", "moves down"))[axis][int(move[axis] > 0)]
    return "turns" if abs(turn) >= LEAST_TURN and np.abs(move).max() < LEAST_MOVE else "unclear"


def check_video(video, caption):
    """Verdict for one video [T,H,W,3] in [0,1]: {"caption", "objects": [...], "stray": [...], "obeyed"}."""
    masks = colour_masks(video)
    objects, wanted = [], [o.split() for o in caption.lower().split(",")]
    for colour, shape, *motion in wanted:
        found = describe(masks[colour])
        objects.append({"colour": colour, "shape": shape, "motion": " ".join(motion), "found": found,
                        "colour_ok": found is not None, "shape_ok": bool(found) and found["shape"] == shape,
                        "motion_ok": bool(found) and found["motion"] == " ".join(motion)})
    named = {o[0] for o in wanted}
    stray = [c for c, m in masks.items() if c not in named and np.median(m.sum((1, 2))) > LEAST_AREA / 2]
    good = all(o["colour_ok"] and o["shape_ok"] and o["motion_ok"] for o in objects) and not stray
    return {"caption": caption, "objects": objects, "stray": stray, "obeyed": good}


def summary(verdicts):
    """Shares over captions (obeyed, no stray colour) and over objects (colour, shape, motion)."""
    objects = [o for v in verdicts for o in v["objects"]]
    share = lambda values: round(float(np.mean(values)), 4) if values else 0.0
    return {"captions": len(verdicts), "obeyed": share([v["obeyed"] for v in verdicts]),
            "objects": len(objects), "colour": share([o["colour_ok"] for o in objects]),
            "shape": share([o["shape_ok"] for o in objects]), "motion": share([o["motion_ok"] for o in objects]),
            "no_stray_colour": share([not v["stray"] for v in verdicts])}


def truth(count, seed=31):
    """(video, caption) pairs straight from the generator."""
    for i in range(count):
        one = data.scene(seed, i)
        yield as_frames(data.render([one], np.arange(data.FRAMES)[None])[0].numpy()), data.caption_of(one[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--captions", type=Path, help="default: captions.txt in the folder")
    parser.add_argument("--truth", type=int, help="check this many rendered videos instead")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)  # many tiny operations
    if args.truth:
        pairs = list(truth(args.truth))
    elif args.folder:
        lines = (args.captions or args.folder / "captions.txt").read_text().splitlines()
        captions = [c.strip() for c in lines if c.strip() and not c.startswith("#")]
        paths = sorted(p for p in args.folder.iterdir() if p.suffix == ".safetensors" or p.is_dir())
        if len(paths) > len(captions) or not paths:
            parser.error(f"{len(paths)} videos but {len(captions)} captions")
        pairs = ((read_video(p), c) for p, c in zip(paths, captions))
    else:
        parser.error("give a folder or --truth N")
    verdicts = [check_video(video, caption) for video, caption in pairs]
    result = summary(verdicts)
    if args.json:
        print(json.dumps({"summary": result, "videos": verdicts}, indent=1))
        return
    for v in verdicts:
        found = [f"{o['colour']} {o['found']['shape']} {o['found']['motion']}" if o["found"] else f"no {o['colour']}" for o in v["objects"]]
        if not v["obeyed"]:
            print(f"not obeyed: {v['caption']!r}: found {', '.join(found)}" + (f", stray {v['stray']}" if v["stray"] else ""))
    print(", ".join(f"{k} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
