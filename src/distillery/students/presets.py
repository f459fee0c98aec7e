"""The field's evaluation protocols as data.

A preset maps a number of classes to the constants that hold from there on: those of the largest key that is not above
the number of classes lie on top of the smaller ones. `epochs` and `batch_size` may map an IPC to the value that holds
from there on, `learning_rate` the beginning of a network's name to its value.
"""

from __future__ import annotations

from typing import Any

FULL = "full"
"""The key of all training images in a table by IPC."""

DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""The operations of differentiable siamese augmentation (arXiv 2102.08259)."""

Constants = dict[str, Any]

# IDC (arXiv 2205.14959) and Minimax diffusion (arXiv 2311.15529): train.py, data.py and argument.py of the public code.
_MINIMAX: Constants = {
    "epochs": {1: 3000, 2: 2000, 11: 1500, 51: 1000, 201: 500, 501: 300, FULL: 300},
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "size": 224,
    "normalize": "imagenet",
    "crop_scale": [0.5, 1.0],
    "crop_ratio": [3 / 4, 4 / 3],
    "flip": True,
    "color_jitter": 0.4,
    "lighting": 0.1,
    "cutmix": 1.0,
    "evaluations": 100,
    "full_evaluations": 300,
}
_MINIMAX_BY_CLASSES: dict[int, Constants] = {
    100: {"epochs": {1: 2000, 2: 1300, 11: 1000, 51: 600, 201: 300, 501: 200, FULL: 200}},
    # Above 100 classes the epochs are those of fewer than 100.
    101: {"epochs": _MINIMAX["epochs"], "learning_rate": 0.1, "weight_decay": 1e-4, "batch_size": 128},
}
_ADAMW: Constants = {"optimizer": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.01}

PRESETS: dict[str, dict[int, Constants]] = {
    # The default experiment: tiny grey images, seconds per network.
    "small": {
        1: {
            "epochs": {1: 200, FULL: 15},
            "batch_size": 64,
            "optimizer": "adamw",
            "learning_rate": 6e-3,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "shift": 2,
            "cutmix": 1.0,
            "evaluations": 5,
        }
    },
    # A network that knows the real images: theta* of LGD, a teacher, features for a selection.
    "reference": {
        1: {
            "epochs": 50,
            "batch_size": 64,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "evaluations": 1,
        }
    },
    # SGD, hard labels. Published numbers are the best of 100 looks at the test set.
    "minimax": {1: _MINIMAX, **_MINIMAX_BY_CLASSES},
    # IGD (ICLR 2025): as `minimax` with AdamW, whatever the number of classes; 5 seeds.
    "igd": {
        1: {**_MINIMAX, **_ADAMW},
        100: _MINIMAX_BY_CLASSES[100],
        101: {"epochs": _MINIMAX["epochs"], "batch_size": 128},
    },
    # RDED (CVPR 2024): soft labels of a teacher that sees every augmented, mixed batch.
    "rded": {
        1: {
            **_ADAMW,
            "epochs": 300,
            "batch_size": {1: 10, 10: 50, 50: 100},
            "learning_rate": {
                "default": 1e-3,
                "efficientnet": 2e-3,
                "mobilenet": 2.5e-3,
                "vgg11": 5e-4,
                "alexnet": 1e-4,
                "vit": 1e-4,
                "swin": 1e-4,
            },
            "decay_vectors": False,
            "schedule": "half_cosine",
            "size": 224,
            "normalize": "imagenet",
            "resize_first": False,
            "test_scale": 256 / 224,
            "crop_scale": [0.5, 1.0],
            "crop_ratio": [3 / 4, 4 / 3],
            "strip_shuffle": 2,
            "flip": True,
            "cutmix": 1.0,
            "labels": "soft",
            "temperature": 20.0,
            "evaluations": 6,
            "evaluations_from": 5 / 6,
        },
        100: {"batch_size": {1: 20, 10: 100, 50: 200}},
    },
    # GLaD and LD3M (arXiv 2403.03881): DSA, weights averaged once per epoch, one look at the end.
    "ld3m": {
        1: {
            "epochs": 1000,
            "batch_size": 256,
            "optimizer": "sgd",
            "learning_rate": {"default": 1e-3, "vgg11": 1e-4},
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "warmup_cosine",
            "ema_decay": 0.995,
            "normalize": "imagenet",
            "dsa": "_".join(DSA),
            "evaluations": 1,
        }
    },
    # DSA (arXiv 2102.08259), DM, MTT: the evaluation of the small data sets; one look at the end.
    "dsa": {
        1: {
            "epochs": 1000,
            "batch_size": 256,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step_at_half",
            "normalize": "dataset",
            "dsa": "_".join(DSA),
            "dsa_align_corners": False,
            "evaluations": 1,
        }
    },
}

NO_AUGMENTATION: Constants = {
    "shift": 0,
    "crop_scale": None,
    "strip_shuffle": 1,
    "flip": False,
    "color_jitter": 0.0,
    "lighting": 0.0,
    "dsa": "",
    "cutmix": 0.0,
}
"""What `augment: false` puts in the place of the constants of the augmentations."""


def preset_constants(name: str, classes: int) -> Constants:
    """The constants of a preset for a number of classes."""
    constants: Constants = {}
    for least in sorted(PRESETS[name]):
        if least <= classes:
            constants.update(PRESETS[name][least])
    return constants
