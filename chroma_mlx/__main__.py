"""`python -m chroma_mlx` is `chroma-mlx`."""

import sys

from .cli import main

sys.exit(main())
