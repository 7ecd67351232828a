"""Procedural videos of coloured shapes that move, turn and bounce on a textured background, with their captions.

A video is a pure function of (seed, index): scenes are drawn one by one from a counter-based generator, frames are
rendered for a whole batch at once and only for the frame numbers that are asked for. Pixels are RGB in [-1, 1].
"""
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

SIZE = 64
FRAMES = 16
PATCH = 4  # pixels along the side of a token
COLOURS = {
    "red": (0.90, 0.12, 0.12), "yellow": (0.92, 0.88, 0.10), "green": (0.10, 0.82, 0.15),
    "cyan": (0.10, 0.85, 0.90), "blue": (0.15, 0.22, 0.95), "purple": (0.88, 0.15, 0.88),
}
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1), "turns": (0, 0)}
PAD = "<pad>"
WORDS = (PAD, *COLOURS, *SHAPES, "moves", "turns", "left", "right", "up", "down")
SLOTS_PER_OBJECT = 4
GROUPS = [[0, 1], [0, 2, 3]]  # slots of an object that make one embedding: colour and shape, colour and motion
MAX_OBJECTS = 2
TURNING = 0.24  # share of objects that turn instead of moving
UNDISTURBED = 6  # frames before an object may bounce off an edge, so that the captioned direction is visible
MAX_LENGTH = SLOTS_PER_OBJECT * MAX_OBJECTS
GRAMMAR = ("caption = object [ ',' object ]; object = colour shape motion; colour = red | yellow | green | cyan | blue | "
           "purple; shape = circle | square | triangle | star; motion = 'moves' ( left | right | up | down ) | 'turns'")


@dataclass
class Body:
    """One object: initial state in pixels and frames, and the velocity it has after `contact` (a frame time)."""
    colour: str
    shape: str
    motion: str
    radius: float
    start: np.ndarray
    velocity: np.ndarray
    angle: float
    spin: float
    low: np.ndarray  # corners of the part of the picture that its centre bounces about in
    high: np.ndarray
    contact: float = np.inf
    after: np.ndarray | None = None

    def centre(self, t):
        """Positions [len(t), 2] (x, y) at the frame times t."""
        t = np.asarray(t, dtype=np.float64)
        before = np.minimum(t, self.contact)[:, None]
        place = self.start + before * self.velocity
        if self.after is not None:
            return place + np.maximum(t - self.contact, 0)[:, None] * self.after
        room = self.high - self.low
        return self.low + room - np.abs((place - self.low) % (2 * room) - room)

    def caption(self):
        return f"{self.colour} {self.shape} {self.motion}"


def tokenize(caption):
    """Caption -> list of MAX_LENGTH word ids; object i fills the slots from SLOTS_PER_OBJECT * i. ValueError on bad input."""
    ids = [0] * MAX_LENGTH
    if not caption.strip():
        return ids
    objects = caption.lower().split(",")
    if len(objects) > MAX_OBJECTS:
        raise ValueError(f"[tokenize] at most {MAX_OBJECTS} objects, got {len(objects)} ({caption!r})")
    for i, words in enumerate(o.split() for o in objects):
        if not 1 <= len(words) <= SLOTS_PER_OBJECT:
            raise ValueError(f"[tokenize] an object has 1 to {SLOTS_PER_OBJECT} words, got {len(words)} ({caption!r})")
        for j, word in enumerate(words):
            if word not in WORDS[1:]:
                raise ValueError(f"[tokenize] unknown word {word!r}; known: {', '.join(WORDS[1:])}")
            ids[SLOTS_PER_OBJECT * i + j] = WORDS.index(word)
    return ids


def _direction(motion):
    return np.array(MOTIONS[motion], dtype=np.float64)


def _boxes(motions):
    """The part of the picture (low corner, high corner) in which each object stays: the first above or left of the second.

    Two that move up and down need height, so they share the width; otherwise they share the height, and one that moves up or
    down beside one that moves sideways gets the larger part. A caption thus says roughly where its objects are."""
    whole = (0, 0, SIZE, SIZE)
    if len(motions) == 1 or _meet(motions):
        return [whole] * len(motions)
    upright = [MOTIONS[m][1] != 0 for m in motions]
    sideways = [MOTIONS[m][0] != 0 for m in motions]
    if any(upright) and not any(sideways):
        return [(0, 0, SIZE // 2, SIZE), (SIZE // 2, 0, SIZE, SIZE)]
    border = SIZE // 2 + 8 * (upright[0] - upright[1])
    return [(0, 0, SIZE, border), (0, border, SIZE, SIZE)]


def _meet(motions):
    """Whether two objects move towards each other: the first one comes from the left or from above."""
    return motions in (["moves right", "moves left"], ["moves down", "moves up"])


def _body(rng, colour, motion, box):
    direction = _direction(motion)
    radius = rng.uniform(10.0, 11.0)
    low, high = np.array(box[:2]) + radius + 0.5, np.array(box[2:]) - radius - 0.5
    room = np.abs(direction) @ (high - low)
    velocity = direction * rng.uniform(0.92, 1.0) * min(1.6, room / (FRAMES - 1))
    travel = velocity * UNDISTURBED
    start = rng.uniform(low - np.minimum(travel, 0), high - np.maximum(travel, 0))
    turning = motion == "turns"
    return Body(colour, str(rng.choice(SHAPES)), motion, radius, start, velocity,
                np.deg2rad(rng.uniform(-10, 10)) if turning else 0.0, np.deg2rad(rng.uniform(10, 12)) if turning else 0.0, low, high)


def _head_on(rng, first, second):
    """Puts two objects on one line, so that they meet and bounce back."""
    axis = int(np.argmax(np.abs(first.velocity)))
    first.velocity = _direction(first.motion) * rng.uniform(1.2, 1.4)
    second.velocity = -first.velocity  # equal speeds, so that both stay inside the picture
    jitter = rng.uniform(0.5, 2.0, 2)
    first.start[axis] = first.radius + jitter[0]
    second.start[axis] = SIZE - second.radius - jitter[1]
    second.start[1 - axis] = first.start[1 - axis] = rng.uniform(13, SIZE - 13)
    gap = second.start[axis] - first.start[axis] - 0.95 * (first.radius + second.radius)
    first.contact = second.contact = gap / (2 * first.velocity[axis])
    bounce = min(1.0, first.contact / (FRAMES - 1 - first.contact))  # not fully elastic, so that nobody leaves the picture
    first.after, second.after = bounce * second.velocity, bounce * first.velocity


def scene(seed, index, most=MAX_OBJECTS, turning=TURNING):
    """The objects (1 or 2, at most `most`) of video `index`, and its random generator, which then draws the background.

    An object turns with probability `turning`; otherwise all four directions are alike."""
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    count = 1 if rng.random() < 0.35 else most
    colours = rng.permutation(list(COLOURS))[:count]
    motions = [str(m) for m in rng.choice(list(MOTIONS), size=count, p=[(1 - turning) / 4] * 4 + [turning])]
    bodies = [_body(rng, str(c), m, box) for c, m, box in zip(colours, motions, _boxes(motions))]
    if _meet(motions):
        _head_on(rng, *bodies)
    return bodies, rng


def caption_of(bodies):
    return ", ".join(b.caption() for b in bodies)


def signed_distance(shape, x, y, r):
    """Signed distance in pixels (negative inside) of an upright shape of radius r at points x, y (y points down)."""
    if shape == "circle":  # a wedge is cut out of the top, so that turning can be seen
        wedge = x.abs() * np.cos(0.45) + y * np.sin(0.45)
        return torch.maximum(torch.hypot(x, y) - r, -torch.maximum(wedge, y + 0.15 * r))
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.84 * r
    if shape == "triangle":
        return torch.maximum(x.abs() * 0.8660254 - y * 0.5, y) - 0.55 * r
    px, py = x.abs(), -y  # five-pointed star: fold into one half point, then the distance to its edge
    for cx, cy in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        d = torch.clamp(px * cx + py * cy, min=0)
        px, py = px - 2 * d * cx, py - 2 * d * cy
        px = px.abs() if cx < 0 else px
    py = py - 1.1 * r
    bx, by = 0.587785 * 0.45, 0.809017 * 0.45 - 1
    h = torch.clamp((px * bx + py * by) / (bx * bx + by * by), min=torch.zeros(()), max=1.1 * r)
    return torch.hypot(px - bx * h, py - by * h) * torch.sign(py * bx - px * by)


def _background(rngs):
    """[N, 3, SIZE, SIZE] in [0, 1]: dark grey smooth noise of two scales with a faint tint."""
    image = 0
    for cells, strength in ((4, 0.07), (9, 0.05)):
        grid = torch.from_numpy(np.stack([r.standard_normal((1, cells, cells)) for r in rngs])).float()
        image = image + strength * F.interpolate(grid, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
    tint = torch.from_numpy(np.stack([r.uniform(-0.03, 0.03, (3, 1, 1)) + r.uniform(0.2, 0.36) for r in rngs])).float()
    return (image + tint).clamp(0.02, 0.6)


def render(scenes, frames):
    """scenes: list of (bodies, rng); frames: int array [N, T] of frame numbers -> float32 [N, 3, T, SIZE, SIZE] in [-1, 1]."""
    frames = np.asarray(frames)
    video = _background([rng for _, rng in scenes])[:, :, None].repeat(1, 1, frames.shape[1], 1, 1)
    grid = torch.arange(SIZE, dtype=torch.float32) + 0.5
    todo = [(n, body) for n, (bodies, _) in enumerate(scenes) for body in bodies]
    for shape in SHAPES:
        group = [(n, b) for n, b in todo if b.shape == shape]
        if not group:
            continue
        column = lambda values: torch.tensor(np.array(values), dtype=torch.float32)
        centre = column([b.centre(frames[n]) for n, b in group])[..., None, None]
        angle = column([b.angle + b.spin * frames[n] for n, b in group])[..., None, None]
        radius = column([b.radius for _, b in group])[:, None, None, None]
        dx, dy = grid[None, None, None, :] - centre[:, :, 0], grid[None, None, :, None] - centre[:, :, 1]
        cos, sin = angle.cos(), angle.sin()
        cover = (0.5 - signed_distance(shape, cos * dx + sin * dy, cos * dy - sin * dx, radius)).clamp(0, 1)
        for (n, b), alpha in zip(group, cover):
            paint = torch.tensor(COLOURS[b.colour])[:, None, None, None]
            video[n] = video[n] * (1 - alpha) + paint * alpha
    return video * 2 - 1


def batch(seed, first, count, length=FRAMES, *, thin=1, objects=MAX_OBJECTS, stride=(1, FRAMES), from_first=False, turning=TURNING):
    """Videos first .. first+count-1 -> (video [N,3,length,h,w], places, captions).

    `places` are the true positions of the tokens, int64: frame numbers [N,length], rows [N,h/PATCH], columns [N,w/PATCH].
    A video has at most `objects` objects, `turning` as for scene. With length < FRAMES it is seen at evenly spaced frames of a random start, as far apart
    as a number in the range `stride` that fits says; from_first: at its first frame, and the others like that somewhere after it.
    With thin > 1 only every thin-th row and column of tokens is kept (from a random offset) and closed up, h = w = SIZE / thin."""
    scenes, frames, offsets = [], [], []
    for index in range(first, first + count):
        scenes.append(scene(seed, index, objects, turning))
        rng = np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, 1]))
        free = length - 1 if from_first else length  # frames with a place to choose
        limit = (FRAMES - 1 - from_first) // (free - 1) if free > 1 else 1
        step = int(rng.integers(min(stride[0], limit), min(stride[1], limit) + 1))
        start = int(rng.integers(from_first, max(FRAMES - step * (free - 1), from_first + 1)))
        frames.append(np.concatenate([np.zeros(length - free, int), start + step * np.arange(free)]))
        offsets.append(rng.integers(0, thin, 2))
    frames, offsets = np.stack(frames), np.stack(offsets)
    video = render(scenes, frames)
    grid = thin * torch.arange(SIZE // PATCH // thin)
    rows, columns = (torch.from_numpy(o)[:, None] + grid for o in offsets.T)
    if thin > 1:
        tokens = video.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH))  # [N, 3, T, rows, PATCH, columns, PATCH]
        video = torch.stack([v[:, :, r][:, :, :, :, c] for v, r, c in zip(tokens, rows, columns)]).flatten(5).flatten(3, 4)
    return video, (torch.from_numpy(frames), rows, columns), [caption_of(b) for b, _ in scenes]
