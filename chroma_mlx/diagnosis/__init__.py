"""Whether an installation is right: a model's vectors against published ones, and the machine it runs on."""
