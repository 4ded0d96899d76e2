"""What a folder of files declares: layout, weights, quantisation, pooling, prompts. Free of MLX."""

from .open import Checkpoint, open_checkpoint, sound_values

__all__ = ["Checkpoint", "open_checkpoint", "sound_values"]
