"""The official code in words of torch.nn.functional: names, shapes and layers of its networks.

Written from the description of ubc-vision/mist (models/ and mist_train.py), without this suite's
modules: what an import is compared with, in float64.
"""

import math

import torch
import torch.nn.functional as F

TRUNK = {4: (3, 64, 64), 5: (4, 64, 128), 6: (6, 128, 256)}  # ResNet-34: blocks, channels in, out


def layer(name, *shape):
    """A convolution or dense layer, with its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def batch_norm(name, channels):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": (channels,) for key in names} | {f"{name}.num_batches_tracked": ()}


def stage(name, inside, channels, blocks):
    """models/net.py: ResNet; the norm of a block is stored under three names."""
    shapes = layer(f"{name}.first", channels, inside, 1, 1)
    for i in range(blocks):
        block = f"{name}.blocks.{i}"
        shapes |= layer(f"{block}.norm", channels)
        shapes |= layer(f"{block}.block.0", channels, channels, 3, 3)
        shapes |= layer(f"{block}.block.1", channels)
        shapes |= layer(f"{block}.block.3", channels, channels, 3, 3)
        shapes |= layer(f"{block}.block.4", channels)
    return shapes


def mnist_shapes(channels=32, width=8):
    """models/detector.py: CustomResNetDetector; models/classifier.py: CustomClassifier."""
    detector = batch_norm("backbone.norm", 3)
    detector |= stage("backbone.resnet", 3, channels, 4)
    detector |= layer("backbone.last", 1, channels, 1, 1)
    classifier = {}
    for index, inside, outside in (
        *((0, 3, width), (2, width, 2 * width), (4, 2 * width, 4 * width)),
        *((6, 4 * width, 8 * width), (8, 8 * width, 16 * width), (10, 16 * width, 16 * width)),
    ):
        classifier |= stage(f"encoder.layers.{index}", inside, outside, 3)
    classifier |= layer("classifier.dense", 10, 16 * width)
    return {"detector": detector, "classifier": classifier}


def pascal_shapes(channels=32, width=512):
    """models/detector.py: ResNet34Detector; models/classifier.py: ResnetClassifier."""
    detector = {"backbone.backbone.0.weight": (64, 3, 7, 7)}
    detector |= batch_norm("backbone.backbone.1", 64)
    for index, (blocks, inside, outside) in TRUNK.items():
        for i in range(blocks):
            block, c = f"backbone.backbone.{index}.{i}", outside if i else inside
            detector[f"{block}.conv1.weight"] = (outside, c, 3, 3)
            detector |= batch_norm(f"{block}.bn1", outside)
            detector[f"{block}.conv2.weight"] = (outside, outside, 3, 3)
            detector |= batch_norm(f"{block}.bn2", outside)
            if c != outside:
                detector[f"{block}.downsample.0.weight"] = (outside, c, 1, 1)
                detector |= batch_norm(f"{block}.downsample.1", outside)
    detector |= layer("backbone.detector_head.0", channels, 256, 3, 3)
    detector |= layer("backbone.detector_head.2", 3, channels, 1, 1)
    classifier = stage("cnn", 256, width, 3) | layer("fcn.0", 21, width)
    return {"detector": detector, "classifier": classifier}


def random_values(shapes, seed=0, equal_statistics=True):
    """Return random tensors of these shapes; copies of a layer are equal."""
    generator = torch.Generator().manual_seed(seed)
    values = {part: {} for part in shapes}
    for part, named in shapes.items():
        for name, shape in named.items():
            noise = torch.randn(shape, generator=generator)
            if name.endswith("num_batches_tracked"):
                value = torch.tensor(7)
            elif name.endswith("running_var"):
                value = noise.abs() + 0.5
            elif len(shape) > 1:  # keeps the size of what goes through
                value = noise * (2 / noise[0].numel()) ** 0.5
            else:
                value = 0.2 * noise + (1.0 if name.endswith("weight") else 0.0)
            if equal_statistics and "backbone.norm.running" in name:
                value = value[:1].repeat(3)
            original = name.replace(".block.1.", ".norm.").replace(".block.4.", ".norm.")
            values[part][name] = values[part].get(original, value)
    return values


def joined(values):
    """Return tensors by names that begin with their network."""
    return {f"{part}.{name}": v for part, named in values.items() for name, v in named.items()}


def in_float64(values):
    """Return the same with every number that can be trained as a float64 leaf."""
    return {
        name: value.double().requires_grad_("running" not in name)
        for name, value in joined(values).items()
        if value.is_floating_point()
    }


def conv(w, name, x, padding=0):
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)


def norm_all(w, name, x):
    """Group norm of one group: over channels and space."""
    mean = x.mean((1, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((1, 2, 3), keepdim=True)
    scale, shift = w[f"{name}.weight"][:, None, None], w[f"{name}.bias"][:, None, None]
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def run_stage(w, name, x, blocks, padding):
    x = conv(w, f"{name}.first", x)
    for i in range(blocks):
        block = f"{name}.blocks.{i}"
        y = norm_all(w, f"{block}.norm", conv(w, f"{block}.block.0", x, padding)).relu()
        y = norm_all(w, f"{block}.norm", conv(w, f"{block}.block.3", y, padding))
        x = (y + (x if padding else x[..., 2:-2, 2:-2])).relu()
    return x


def response(w, images, training=False):
    """Return the (B, H, W) response of the detector on (B, 3, H, W) MNIST images."""
    x, name = F.pad(images, (8, 8, 8, 8), mode="reflect"), "detector.backbone.norm"
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    if training:
        mean = x.mean((0, 2, 3))
        variance = (x - mean[:, None, None]).square().mean((0, 2, 3))
    scale = w[f"{name}.weight"] / (variance + 1e-5).sqrt()
    x = (x - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]
    x = run_stage(w, "detector.backbone.resnet", x, 4, padding=0)
    return conv(w, "detector.backbone.last", x)[:, 0]


def local_softmax(logits, maximum=None):
    """Window 15, strength 10, the map's maximum; sums of windows that fit, repeated outwards."""
    maximum = logits.amax((1, 2)) if maximum is None else maximum
    raised = torch.exp(10 * (logits - maximum[:, None, None]))
    total = F.avg_pool2d(raised[:, None], 15, stride=1) * 225
    return raised / (F.pad(total, (7, 7, 7, 7), mode="replicate")[:, 0] + 1e-6)


def top_cells(heatmap, count):
    """Return (B, K) xy cells: the highest of what is no lower than any of 5 x 5; others are 0."""
    pooled = F.max_pool2d(heatmap[:, None], 5, stride=1, padding=2)[:, 0]
    kept = (heatmap * (heatmap >= pooled)).flatten(1)
    index = kept.argsort(dim=1, descending=True, stable=True)[:, :count]
    width = heatmap.shape[-1]
    return torch.stack([index % width, index // width], dim=-1)


def patches(maps, boxes, size=32):
    """Return (B * K, C, size, size) bilinear samples, the outer ones on the edge of the box."""
    places = torch.linspace(0, 1, size, dtype=boxes.dtype) - 0.5
    return torch.stack(
        [patch(one, *box, places) for one, own in zip(maps, boxes, strict=True) for box in own]
    )


def patch(image, x, y, width, height, places):
    """Coordinates are cut off towards 0 and then clamped, which leaves 0 where both ends meet."""
    H, W = image.shape[-2:]
    (left, right, a, b), (top, bottom, c, d) = (
        axis(center + places * extent, length)
        for center, extent, length in ((x, width, W), (y, height, H))
    )
    rows = c[:, None] * image[:, top] + d[:, None] * image[:, bottom]
    return a * rows[..., left] + b * rows[..., right]


def axis(places, length):
    """Return the two pixels beside each place, and their weights."""
    low = places.detach().trunc()
    high, places = (low + 1).clamp(0, length - 1), places.clamp(0, length - 1)
    low = low.clamp(0, length - 1)
    return low.long(), high.long(), high - places, places - low


def mnist_probs(w, images, boxes):
    """Return (B, K, 10) class probabilities on (B, 3, H, W) images."""
    x = patches(images, boxes)
    for level in range(5):
        x = F.max_pool2d(run_stage(w, f"classifier.encoder.layers.{2 * level}", x, 3, 1), 2)
    x = run_stage(w, "classifier.encoder.layers.10", x, 3, 1).flatten(1)
    dense = "classifier.classifier.dense"
    logits = x @ w[f"{dense}.weight"].T + w[f"{dense}.bias"]
    return logits.softmax(-1).view(*boxes.shape[:2], -1)


def pascal_maps(w, features):
    """Return the (B, h, w) response and (B, 2, h, w) offsets, not negative, of features."""
    x = conv(w, "detector.backbone.detector_head.0", features, 1).relu()
    x = conv(w, "detector.backbone.detector_head.2", x)
    return x[:, 0], x[:, 1:].relu()


def pascal_probs(w, features, boxes, size):
    """Return (B, K, C) class probabilities of patches of features."""
    x = run_stage(w, "classifier.cnn", patches(features, boxes, size), 3, 1).mean((2, 3))
    logits = x @ w["classifier.fcn.0.weight"].T + w["classifier.fcn.0.bias"]
    return logits.softmax(-1).view(*boxes.shape[:2], -1)


def task_loss(probs, labels):
    """Return (B,) half the squared distance of mean one-hot labels and mean probabilities."""
    wanted = F.one_hot(labels, probs.shape[-1]).double().mean(1)
    return (probs.mean(1) - wanted).square().sum(1) / 2


def boxes_like(points, side):
    """Return (B, K, 4) boxes of one side at (B, K, 2) xy points."""
    points = points.double()
    return torch.cat([points, torch.full_like(points, side)], -1)


def pascal_boxes(heatmap, offsets, count):
    """Return (B, K, 4) boxes in cells: the offset of a cell's corner is added to its index."""
    cells = top_cells(heatmap, count)
    index = (cells[..., 1] * heatmap.shape[2] + cells[..., 0])[:, None].expand(-1, 2, -1)
    own = offsets.flatten(2).gather(2, index).transpose(1, 2)
    return boxes_like(cells + own, 7)


def moved_points(points, loss, steps, lr):
    """Return points after plain steps down the mean of ``loss(points)``, which is (B,)."""
    for _ in range(steps):
        points = points.detach().requires_grad_()
        (grad,) = torch.autograd.grad(loss(points).mean(), points)
        points = points - lr * grad
    return points.detach()


def mnist_step(w, images, labels, steps, lr):
    """One step of mist_train.py on MNIST: keypoints, classifier, detector; gradients stay in w."""

    def loss(points):
        return task_loss(mnist_probs(w, images, boxes_like(points, 20)), labels)

    heatmap = local_softmax(response(w, images, training=True))
    start = top_cells(heatmap.detach(), labels.shape[1]).double()
    moved = moved_points(start, loss, steps, lr)
    task = loss(moved)
    task.mean().backward()
    target = torch.zeros_like(heatmap)
    H, W = heatmap.shape[1:]
    for b, points in enumerate((moved + 0.5).long().tolist()):
        for x, y in points:
            target[b, min(max(y, 0), H - 1), min(max(x, 0), W - 1)] = 1
    heat = (heatmap - target).square().mean((1, 2))
    (torch.exp(-5 * task.detach()) * heat).mean().backward()
    return start, moved, task.detach(), heat.detach()


def pascal_step(w, features, labels, size, steps, lr):
    """The same on PASCAL+COCO: Gaussians at rounded-down keypoints, offsets of what is cut off.

    The weight of an image is on its heatmap alone. Keypoints must stay inside of the map.
    """

    def loss(points):
        return task_loss(pascal_probs(w, features, boxes_like(points, 7), size), labels)

    heatmap, offsets = pascal_maps(w, features)
    start = pascal_boxes(heatmap.detach(), offsets.detach(), labels.shape[1])[..., :2]
    moved = moved_points(start, loss, steps, lr)
    task = loss(moved)
    task.mean().backward()
    heat, huber = [], []
    for b, points in enumerate(moved.tolist()):
        error = 0
        for y in range(heatmap.shape[1]):
            for x in range(heatmap.shape[2]):
                peaks = [math.hypot(x - math.floor(u), y - math.floor(v)) for u, v in points]
                ideal = sum(math.exp(-((r / (7 / 8)) ** 2) / 2) for r in peaks)
                error = error + (heatmap[b, y, x] - ideal) ** 2
        heat.append(error / heatmap[b].numel())
        for u, v in points:
            cell = math.floor(v), math.floor(u)
            for axis, place in ((0, u), (1, v)):
                miss = (offsets[b, axis][cell] - (place - math.floor(place))).abs()
                huber.append(miss**2 / 2 if miss < 1 else miss - 0.5)
    weighted = sum(math.exp(-5 * t) * h for t, h in zip(task.tolist(), heat, strict=True))
    (weighted / len(heat) + 0.1 * sum(huber) / len(huber)).backward()
    return start, moved, task.detach(), torch.stack(heat).detach()
